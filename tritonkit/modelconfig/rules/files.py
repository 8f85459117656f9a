"""Rules on the other files that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()


@rules.rule(
    "LBL01",
    "the label file '{file}' of the output '{tensor}' is not in the model's folder",
    triton="failed to open text file",
    instead="a file beside config.pbtxt, one label a line",
)
def label_files_are_there(model: Subject) -> Iterator[Found]:
    for index, output in enumerate(model.config.output):
        file = output.label_filename
        if file and model.files is not None and file not in model.files:
            yield at("output", index, "label_filename", file=file, tensor=output.name)
