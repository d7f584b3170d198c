"""How fast this checkpoint is in Hugging Face transformers, beside the original: tokens per second of a prompt at once, and one by one.

    python speed_espalier.py [FOLDER] [--against ORIGINAL] [--prefill 512] [--decode 32] [--rounds 5] [--dtype bfloat16] [--threads N] [--json]

FOLDER is an export of Espalier (default: the one this file lies in), ORIGINAL the checkpoint it was made of or any other with the same
vocabulary. Both are loaded at once and run in turn, one round that is not counted first; medians of the rounds, the least and the most in
brackets. On a GPU where there is one, unless --device says otherwise. Needs torch and transformers 5; nothing is downloaded.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402


def load(folder, dtype, device):
    config = AutoConfig.from_pretrained(folder, trust_remote_code=is_factored(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, trust_remote_code=is_factored(folder))
    return model.to(device).eval()


def is_factored(folder):
    """Whether the folder brings modelling code of Espalier: no other code is run."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    return str(config.get("model_type", "")).startswith("espalier_") and "auto_map" in config


def synchronise(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@torch.no_grad()
def run(model, prompt, decode, device):
    """Tokens per second of the prompt, and of `decode` greedy tokens behind it."""
    synchronise(device)
    begin = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    synchronise(device)
    middle = time.perf_counter()
    for _ in range(decode):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    synchronise(device)
    end = time.perf_counter()
    return prompt.shape[1] / (middle - begin), decode / (end - middle)


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(value, unit=""):
    return f"{value['median']:.2f}{unit} ({value['low']:.2f} to {value['high']:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--against", help="the original")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (as stored)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.prefill, options.decode, options.rounds) < 1:
        parser.error("--prefill, --decode and --rounds are at least 1")
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    dtype = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    models = {"export": load(options.folder, dtype, options.device)}
    if options.against:
        models["original"] = load(options.against, dtype, options.device)
    vocabulary = min(model.config.vocab_size for model in models.values())
    generator = torch.Generator().manual_seed(options.seed)
    prompt = torch.randint(vocabulary, (1, options.prefill), generator=generator).to(options.device)
    rounds = []
    for number in range(-1, options.rounds):
        names = list(models) if number % 2 else list(reversed(models))
        done = {name: run(models[name], prompt, options.decode, options.device) for name in names}
        if number >= 0:
            rounds.append(done)
    result = {}
    for name, model in models.items():
        result[name] = {
            "prefill_tokens_per_second": spread([done[name][0] for done in rounds]),
            "decode_tokens_per_second": spread([done[name][1] for done in rounds]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "bytes": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
    if options.against:
        result["ratio"] = {
            kind: spread([done["export"][i] / done["original"][i] for done in rounds]) for i, kind in enumerate(("prefill", "decode"))
        }
    result.update(prefill=options.prefill, decode=options.decode, rounds=options.rounds, device=options.device, threads=torch.get_num_threads())
    if options.json:
        print(json.dumps(result))
        return
    for name in models:
        one = result[name]
        print(
            f"{name:9} prefill {shown(one['prefill_tokens_per_second'])} tokens/s, decode {shown(one['decode_tokens_per_second'])} tokens/s,"
            f" {one['bytes'] / 2**30:.2f} GiB in {one['dtype']}"
        )
    if options.against:
        print(f"ratio     prefill {shown(result['ratio']['prefill'], 'x')}, decode {shown(result['ratio']['decode'], 'x')}")


if __name__ == "__main__":
    main()
