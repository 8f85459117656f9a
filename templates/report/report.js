"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Told apart by colour-blind eyes too; lines differ in their points as well.
  const colours = { light: ["#0072b2", "#d55e00", "#009e73", "#b5478f", "#8a6d00", "#3b8fc4", "#7a4fb5", "#5f6a74"],
                    dark: ["#56b4e9", "#ff9e4a", "#3fd0a4", "#e59ac8", "#f0e442", "#9ad0f5", "#c3a6f2", "#b8c2cc"] };
  const shapes = ["circle", "rect", "triangle", "rectRot", "cross", "crossRot", "rectRounded", "dash"];
  let printing = false;
  const palette = () => colours[dark.matches && !printing ? "dark" : "light"];
  const colour = (index) => palette()[index % palette().length];
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = [...new Set(data.points.map((point) => point.series))];
  const shorten = (text) => (text.length > 60 ? `${text.slice(0, 57)}…` : text);
  const plots = {};

  function draw(id, configuration) {
    if (plots[id]) plots[id].destroy();
    Chart.defaults.color = variable("--ink");
    Chart.defaults.borderColor = variable("--line");
    Chart.defaults.animation = false;
    Chart.defaults.maintainAspectRatio = false;
    plots[id] = new Chart(byId(id), configuration);
  }

  const axis = (text, more = {}) => ({ title: { display: true, text }, ...more });
  const legend = { position: "bottom", labels: { usePointStyle: true, boxHeight: 8 } };

  function tradeoff() {
    const metric = byId("latency").value;
    const scale = byId("logarithmic").checked ? "logarithmic" : "linear";
    const datasets = series.map((name, index) => {
      const points = data.points.filter((point) => point.series === name && point.latency[metric] !== null);
      const sound = (point) => point.status === "ok";
      return {
        label: shorten(name), showLine: true, borderColor: colour(index), borderWidth: 1.5,
        data: points.map((point) => ({ x: point.throughput, y: point.latency[metric], point })),
        pointStyle: points.map((point) => (point.pareto ? "star" : shapes[index % shapes.length])),
        pointRadius: points.map((point) => (point.pareto ? 9 : 4)),
        pointBorderWidth: points.map((point) => (point.pareto ? 2.5 : 1.5)),
        pointBackgroundColor: points.map((point) => (sound(point) ? colour(index) : variable("--ground"))),
        pointBorderColor: colour(index),
      };
    });
    draw("plot-tradeoff", {
      type: "scatter", data: { datasets },
      options: {
        scales: { x: axis("inferences/s", { type: scale }), y: axis(`${metric} in ms`, { type: scale, beginAtZero: true }) },
        plugins: { legend: { ...legend, display: series.length <= 12 }, tooltip: { callbacks: { label: ({ raw }) =>
          [raw.point.series, `${raw.point.load}: ${raw.x}/s, ${metric} ${raw.y} ms`,
           raw.point.pareto ? "on the Pareto front" : raw.point.status] } } },
      },
    });
  }

  function inside() {
    const points = data.points.filter((point) => point.series === byId("series").value);
    const loads = points.map((point) => point.load);
    draw("plot-quantiles", {
      type: "line",
      data: { datasets: points.map((point, index) => ({
        label: point.load, borderColor: colour(index), backgroundColor: colour(index), borderWidth: 1.5,
        pointStyle: shapes[index % shapes.length], pointRadius: 3,
        // The tail is what matters: an axis of nines spreads it.
        data: point.quantiles.filter(([, time]) => time !== null).map(([share, time]) => ({ x: nines(share), y: time, share })),
      })) },
      options: {
        scales: {
          x: { type: "linear", title: { display: true, text: "percentile" }, min: 0, max: 3.2,
               afterBuildTicks: (scale) => { scale.ticks = [0, 50, 90, 95, 99, 99.9].map((share) => ({ value: nines(share) })); },
               ticks: { callback: (value) => `p${Number((100 - 100 / 10 ** value).toPrecision(4))}`, autoSkip: false } },
          y: axis("latency in ms", { beginAtZero: true }),
        },
        plugins: { legend, tooltip: { callbacks: { label: ({ raw, dataset }) => `${dataset.label}: p${raw.share} ${raw.y} ms` } } },
      },
    });
    draw("plot-breakdown", {
      type: "bar",
      data: { labels: loads, datasets: data.parts.map((part, index) => ({
        label: part.replaceAll("_", " "), backgroundColor: colour(index), data: points.map((point) => point.parts[index]),
      })) },
      options: { scales: { x: { stacked: true }, y: axis("mean time in ms", { stacked: true }) }, plugins: { legend } },
    });
    const sizes = [...new Set(points.flatMap((point) => point.batches.map(([size]) => size)))].sort((a, b) => a - b);
    draw("plot-batches", {
      type: "bar",
      data: { labels: sizes.map(String), datasets: points.map((point, index) => {
        const total = point.batches.reduce((sum, [, count]) => sum + count, 0);
        const counts = new Map(point.batches);
        return { label: point.load, backgroundColor: colour(index),
                 data: sizes.map((size) => (total ? (100 * (counts.get(size) ?? 0)) / total : 0)) };
      }) },
      options: { scales: { x: axis("batch size"), y: axis("% of executions", { beginAtZero: true }) }, plugins: { legend } },
    });
    for (const details of document.querySelectorAll("details[data-table]")) if (details.open) fill(details);
  }

  const nines = (share) => Math.min(-Math.log10(Math.max(1 - share / 100, 1e-5)), 3.2);

  // The same figures for those who cannot see a plot, made when they are asked for.
  function fill(details) {
    const table = data.tables[details.dataset.table];
    details.querySelector(".scroll")?.remove();
    const place = document.createElement("div");
    place.className = "scroll";
    if (!table) { place.textContent = "Nothing was measured."; details.append(place); return; }
    const rows = table.rows.filter((row) => row[1] === byId("series").value);
    const element = document.createElement("table");
    const cells = (row, kind) => {
      const line = document.createElement("tr");
      for (const value of row.slice(2)) {
        const cell = document.createElement(kind);
        cell.textContent = value ?? "–";
        line.append(cell);
      }
      return line;
    };
    element.createTHead().append(cells(table.columns, "th"));
    element.createTBody().append(...rows.map((row) => cells(row, "td")));
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.csv = details.dataset.table;
    button.textContent = "CSV of all configurations";
    place.append(element, button);
    details.append(place);
  }

  function csv(name) {
    const { columns, rows } = data.tables[name];
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  function download(name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(name)], { type: "text/csv;charset=utf-8" }));
    link.download = `${data.name.replace(/[^\w.-]+/g, "_")}-${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function sortable(table) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const rising = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const rows = [...table.tBodies[0].rows].sort((first, last) => {
          const [a, b] = [value(first), value(last)];
          if (a === "" || b === "") return (a === "") - (b === "");
          const order = a - b || a.localeCompare(b, undefined, { numeric: true });
          return rising ? order : -order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  function redraw() {
    tradeoff();
    inside();
  }

  byId("series").append(...series.map((name) => new Option(shorten(name), name)));
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.addEventListener("click", (event) => {
    const name = event.target.dataset?.csv;
    if (name) download(name);
  });
  document.querySelectorAll("details[data-table]").forEach((details) =>
    details.addEventListener("toggle", () => { if (details.open) fill(details); }));
  byId("latency").addEventListener("change", tradeoff);
  byId("logarithmic").addEventListener("change", tradeoff);
  byId("series").addEventListener("change", inside);
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });
  redraw();
})();
