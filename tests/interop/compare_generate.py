"""Completions of the command line beside Hugging Face transformers' greedy decoding: the tiny models, dense and under plans.

compare_generate.py ENGINE FIXTURES [MODEL ..], FIXTURES is tests/fixtures/model. A plan runs in Espalier on the original and in transformers
as the checkpoint that is exported with it: pruned (one count in all layers: stock where the router allows it), factored, constants, rules by
which tokens skip experts, channels, merged experts, merged layers, masks, grids of few points, factored maps of attention. 64 tokens each. Prompts are taken from the model's stream until no two logits on the way are close (see make_greedy.py).
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

TOKENS = 64
GAP = 2e-3
PROMPT = 12

engine, fixtures, *chosen = sys.argv[1:]
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


def bodies_of(layer, more=lambda expert: {}):
    """All experts of a layer, each a body of its own."""
    experts = range(layer["experts"])
    return {"layer": layer["index"], "columns": [[e, e] for e in experts], "bodies": [{"sources": [e], **more(e)} for e in experts]}


def tensors_of(source):
    tensors = {}
    for file in sorted(os.listdir(source)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(source, file), "pt") as handle:
                tensors.update({name: handle.get_tensor(name) for name in handle.keys()})
    return tensors


def attention_maps(tensors, layer):
    """Factors for every map of a layer's attention, from its own singular vectors, of three quarters of the rank at which they save nothing."""
    maps = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_b_proj"):
        tensor = tensors.get(f"model.layers.{layer}.self_attn.{name}.weight")
        if tensor is not None:
            out, width = tensor.shape
            maps[f"self_attn.{name}"] = {"form": "low-rank", "bands": [[max(1, 3 * out * width // (4 * (out + width))), 0]]}
    return maps


def merged_experts(source, tensors, layers, folder):
    """Experts 0 and 1 of every layer as one, the mean of both: a plan with a values file."""
    names = {"gate": ("gate_proj", "w1"), "up": ("up_proj", "w3"), "down": ("down_proj", "w2")}
    values, plan = {}, []
    for layer in layers:
        for matrix, suffixes in names.items():
            pair = [
                next(t for n, t in tensors.items() for s in suffixes if n.startswith(f"model.layers.{layer['index']}.") and n.endswith(f".experts.{e}.{s}.weight"))
                for e in (0, 1)
            ]
            values[f"layers.{layer['index']}.experts.0.{matrix}.weight"] = ((pair[0].float() + pair[1].float()) / 2).contiguous()
        experts = range(layer["experts"])
        plan.append((layer, [[e, max(e - 1, 0)] for e in experts], list(experts)[2:]))
    file = os.path.join(folder, "merged.values.safetensors")
    save_file(values, file, metadata={"espalier.values": "1", "made_by": json.dumps({"method": "mean", "settings": {}})})
    with open(file, "rb") as handle:
        identity = hashlib.sha256(handle.read()).hexdigest()
    stored = {matrix: {"values": identity} for matrix in names}
    return {
        "version": 2,
        "layers": [{"layer": layer["index"], "columns": columns, "bodies": [{"sources": [0, 1], **stored}] + [{"sources": [e]} for e in rest]}
                   for layer, columns, rest in plan],
        "values": [{"id": identity, "file": os.path.basename(file)}],
    }


def richer_plans(source, shape, folder):
    """Plans that need the second version of plan files."""
    layers = [layer for layer in shape["layers"] if layer["kind"] == "moe"]
    tensors = tensors_of(source)

    def plan(one):
        return {"version": 2, "layers": [one(layer) for layer in layers]}

    def width(layer):
        return layer["expert_parameters"] // (3 * shape["hidden_size"])

    plans = {
        "skip_by_ratio": plan(lambda l: {**bodies_of(l), "skip": {"rule": "ratio", "threshold_millionths": 650000}}),
        "skip_by_share": plan(lambda l: {**bodies_of(l), "skip": {"rule": "cumulative", "threshold_millionths": 550000}}),
        "channels": plan(lambda l: bodies_of(l, lambda e: {"channels": [c for c in range(width(l)) if (c + e) % 3]})),
        "masks": plan(lambda l: bodies_of(l, lambda e: {"gate": {"form": "masked", "kept": 2, "of": 4}, "up": {"form": "masked", "kept_millionths": 600000}})),
        "bits": plan(lambda l: bodies_of(l, lambda e: {m: {"bits": 6, "group": 0, "scheme": "symmetric"} for m in ("gate", "up", "down")})),
        "attention": plan(lambda l: {**bodies_of(l), "linears": attention_maps(tensors, l["index"])}),
    }
    if len(layers) > 1 and layers[-1]["parameters"] == layers[-2]["parameters"]:
        below, above = layers[-2:]
        merge = {"layer": above["index"], "alpha_millionths": 600000, "alignment": ""}
        plans["merged_layers"] = {"version": 2, "layers": [{**bodies_of(below), "merged_from": merge}, {"layer": above["index"], "run": "skipped"}]}
    plans["merged_experts"] = merged_experts(source, tensors, layers, folder)
    return plans


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
        if chosen and name not in chosen:
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
            for what, plan in richer_plans(source, shape, folder).items():
                path = os.path.join(folder, what + ".json")
                with open(path, "w") as file:
                    json.dump(plan, file)
                made.append((what, path, "auto", []))
            constants = with_constants(source, name, folder, shape)
            if constants:
                made.append(("constants", constants[0], "factored", ["--profile", constants[1]]))
            for what, path, flavor, more in made:
                out = os.path.join(folder, what)
                done = run("export", source, "--plan", path, "--out", out, "--flavor", flavor, *more)
                if "error" in done:
                    check(False, f"{name} {what}: {done['error']['message']}")
                    continue
                trust = os.path.exists(os.path.join(out, "modeling_espalier.py"))
                compare(name, what, source, load(out, trust=trust), ["--plan", path, *more])
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
