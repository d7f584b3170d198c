"""REAP's observer, hooked into transformers as its own pruning script does: batches of one window, pruning metrics only.

peer_reap.py REAP_CHECKOUT MODEL IDS fp32|bf16 [all-metrics]

Prints tokens per second of the pass with the observer and of the same pass without it, and the REAP scores that it arrived at.
"all-metrics" records what REAP's expert merging wants too, which is its default when it is called without options.
The hook is REAP's; only the name of the module class is added, for REAP ships none for Qwen2-MoE, whose block is like Qwen3's."""

import logging
import pathlib
import sys
from dataclasses import dataclass

from peer_common import TYPES, arguments, report, setup, timed, windows_of


def main():
    given = arguments(__doc__, 4)
    checkout, model_path, ids_path, dtype = given[:4]
    sys.path.insert(0, str(pathlib.Path(checkout) / "src"))
    import transformers
    from reap.observer import OBSERVER_CONFIG_REGISTRY, MoETransformerObserver, MoETransformerObserverConfig

    @dataclass
    class Qwen2MoEObserverConfig(MoETransformerObserverConfig):
        module_class_name_to_hook_regex: str = "Qwen2MoeSparseMoeBlock"

    logging.disable(logging.INFO)
    setup()
    load, model = timed(lambda: transformers.AutoModelForCausalLM.from_pretrained(model_path, torch_dtype=TYPES[dtype]).eval())
    windows = windows_of(ids_path)
    tokens = windows.numel()

    def one_pass():
        for window in windows:
            model(input_ids=window[None], use_cache=False)

    model(input_ids=windows[:1, :8], use_cache=False)
    plain, _ = timed(one_pass)
    config_class = {**OBSERVER_CONFIG_REGISTRY, "Qwen2MoeForCausalLM": Qwen2MoEObserverConfig}[type(model).__name__]
    observer = MoETransformerObserver(model, config_class(
        distance_measure="cosine", record_pruning_metrics_only="all-metrics" not in given,
        renormalize_router_weights=getattr(model.config, "norm_topk_prob", False)))
    observed, _ = timed(one_pass)
    state = observer.report_state()
    report({"item": "reap", "load_seconds": load, "plain_seconds": plain, "seconds": observed, "plain_tokens_per_second": tokens / plain,
            "tokens_per_second": tokens / observed, "transformers": transformers.__version__,
            "scores": [state[layer]["reap"].tolist() for layer in sorted(state)]})


if __name__ == "__main__":
    main()
