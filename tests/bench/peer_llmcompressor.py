"""llm-compressor's one-shot with its REAP modifier, as in its own example: a quarter of the experts, the router's experts only.

peer_llmcompressor.py MODEL IDS fp32|bf16

Prints tokens per second of the calibration (from its start to its end, the removal of experts included), the seconds of the whole
one-shot, which also traces the model, and the experts that each layer keeps."""

import json
import pathlib
import tempfile
import time

import llmcompressor
import transformers
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.pruning import REAPPruningModifier

from peer_common import TYPES, arguments, report, setup, timed, windows_of


def main():
    model_path, ids_path, dtype = arguments(__doc__, 3)[:3]
    setup()
    load, model = timed(lambda: transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=TYPES[dtype]).eval())
    # What one-shot would do itself, with a warning: experts become modules of their own. Part of loading where one asks for it.
    linearize_moe(model)
    windows = windows_of(ids_path)
    data = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": [[1] * windows.shape[1]] * windows.shape[0]})
    times = {}

    class Timed(REAPPruningModifier):
        def on_calibration_start(self, *args, **kwargs):
            times["start"] = time.perf_counter()
            return super().on_calibration_start(*args, **kwargs)

        def on_calibration_end(self, *args, **kwargs):
            super().on_calibration_end(*args, **kwargs)
            times["end"] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        kept_path = pathlib.Path(folder) / "kept.json"
        whole, _ = timed(lambda: oneshot(
            model=model, dataset=data, recipe=Timed(sparsity=0.25, report_path=str(kept_path)), max_seq_length=windows.shape[1],
            num_calibration_samples=windows.shape[0], batch_size=1, shuffle_calibration_samples=False, moe_calibrate_all_experts=False))
        kept = json.loads(kept_path.read_text())
    calibration = times["end"] - times["start"]
    report({"item": "llmcompressor", "load_seconds": load, "seconds": calibration, "whole_seconds": whole,
            "tokens_per_second": windows.numel() / calibration, "whole_tokens_per_second": windows.numel() / whole,
            "transformers": transformers.__version__, "llmcompressor": llmcompressor.__version__,
            "kept": [sorted(kept[name]) for name in sorted(kept, key=lambda name: int(name.split(".layers.")[1].split(".")[0]))]})


if __name__ == "__main__":
    main()
