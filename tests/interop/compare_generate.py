"""Completions of the command line beside Hugging Face transformers' greedy decoding: the tiny models, dense and under plans.

compare_generate.py ENGINE FIXTURES, FIXTURES is tests/fixtures/model. A plan runs in Espalier on the original and in transformers as the
checkpoint that is exported with it: pruned (one count in all layers: stock where the router allows it), factored, constants, a layer left out.
64 tokens each. Prompts are taken from the model's stream until no two logits on the way are close (see make_greedy.py).
"""

import json
import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

TOKENS = 64
GAP = 2e-3
PROMPT = 12

engine, fixtures = sys.argv[1:]
torch.set_num_threads(1)
failures = []


def check(condition, text):
    print(("ok      " if condition else "FAILED  ") + text, flush=True)
    if not condition:
        failures.append(text)


def run(*arguments):
    done = subprocess.run([engine, *arguments, "--json", "--threads", "1", "--quiet"], capture_output=True, text=True)
    return json.loads(done.stdout)


def load(folder, trust=False):
    return AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=trust, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def greedy(model, prompt):
    with torch.no_grad():
        done = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=TOKENS,
            min_new_tokens=TOKENS, use_cache=True, eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True
        )
    top = torch.stack(done.logits)[:, 0].float().topk(2, dim=-1).values
    return done.sequences[0, len(prompt) :].tolist(), (top[:, 0] - top[:, 1]).min().item()


def stream_of(name):
    with safe_open(os.path.join(fixtures, "goldens", name + ".safetensors"), "pt") as file:
        return file.get_tensor("stream_ids").flatten().tolist()


def compare(name, what, source, reference, more):
    stream = stream_of(name)
    for begin in range(0, len(stream) - PROMPT, PROMPT):
        prompt = stream[begin : begin + PROMPT]
        ids, gap = greedy(reference, prompt)
        if gap >= GAP:
            break
    else:
        return check(False, f"{name} {what}: no prompt without near ties")
    for how in ([], ["--stream"]):
        told = run("generate", source, "--ids", ",".join(map(str, prompt)), "--tokens", str(TOKENS), "--ignore-end", "--dtype", "fp32", *more, *how)
        same = told.get("ids") == ids
        check(same, f"{name} {what}{' streamed' if how else ''}: {TOKENS} tokens, smallest gap {gap:.4f}" + ("" if same else f" {told}"))


def plans_of(shape):
    """Plans by name, and the flavour that holds each."""
    pruned, factored = [], []
    for layer in shape["layers"]:
        if layer["kind"] != "moe":
            continue
        experts, groups = layer["experts"], max(layer.get("groups", 1), 1)
        size = experts // groups
        kept = [e for e in range(experts) if e % size != layer["index"] % size]
        pruned.append({"layer": layer["index"], "kept": kept})
        factored.append({"layer": layer["index"], "kept": kept, "ranks": [[5, 0, 7] if e % 2 else [0, 0, 0] for e in kept]})
    return {"pruned": ({"version": 1, "layers": pruned}, "stock"), "factored": ({"version": 1, "layers": factored}, "factored")}


def with_constants(source, name, folder, shape):
    """A plan whose dropped experts are their mean outputs."""
    ids, profile, plan = (os.path.join(folder, f) for f in ("ids.json", "p.h5", "constants.json"))
    stream = stream_of(name)
    with open(ids, "w") as file:
        json.dump([stream[i : i + 64] for i in range(0, 1024, 64)], file)
    done = run("profile", source, "--ids", ids, "--window-length", "64", "--out", profile, "--force")
    if "error" in done:
        return check(False, f"{name}: {done['error']}")
    done = run("plan", source, "--profile", profile, "--prune", "30%", "--dropped", "constant", "--out", plan, "--force")
    if "error" in done:
        return check(False, f"{name}: {done['error']}")
    return plan, profile


def main():
    for name in sorted(os.listdir(os.path.join(fixtures, "checkpoints"))):
        source = os.path.join(fixtures, "checkpoints", name)
        if not os.path.exists(os.path.join(fixtures, "goldens", name + ".safetensors")) or name in ("glm4moe-tiny", "gptoss-tiny"):
            continue
        compare(name, "dense", source, load(source), [])
        if name == "mixtral-ties":  # of two equal experts rounding chooses either
            continue
        shape = run("inspect", source)
        with open(os.path.join(source, "config.json")) as file:
            groups = json.load(file).get("n_group") or 1
        for layer in shape["layers"]:
            layer["groups"] = groups
        with tempfile.TemporaryDirectory() as folder:
            made = []
            for what, (plan, flavor) in plans_of(shape).items():
                path = os.path.join(folder, what + ".json")
                with open(path, "w") as file:
                    json.dump(plan, file)
                made.append((what, path, flavor, []))
            constants = with_constants(source, name, folder, shape)
            if constants:
                made.append(("constants", constants[0], "factored", ["--profile", constants[1]]))
            for what, path, flavor, more in made:
                out = os.path.join(folder, what)
                done = run("export", source, "--plan", path, "--out", out, "--flavor", flavor, *more)
                if "error" in done:
                    check(False, f"{name} {what}: {done['error']['message']}")
                    continue
                compare(name, what, source, load(out, trust=flavor == "factored"), ["--plan", path, *more])
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
