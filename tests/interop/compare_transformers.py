"""Exports made by Espalier, loaded in Hugging Face transformers: same token ids, logits and perplexity on both sides.

compare_transformers.py TOOL RESOURCES FIXTURES..
TOOL is espalier_interop_tool (built beside this file): it exports a plan and says what Espalier computes on the result's source.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile

# Code and weights lie in local folders; nothing may be looked up elsewhere.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402

LOGIT_TOLERANCE = 2e-4
PERPLEXITY_TOLERANCE = 1e-4

tool, resources, *fixtures = sys.argv[1:]
failures = []


def check(condition, text):
    print(("ok      " if condition else "FAILED  ") + text, flush=True)
    if not condition:
        failures.append(text)


def perplexity(model, rows):
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(ids, use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum")
            total += loss.item()
            count += len(row) - 1
    return math.exp(total / count)


def load(folder, trust):
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=trust, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


def compare(name, source, plan, flavor, folder, text=None, recover=None):
    """One export: what Espalier says about source + plan against what transformers computes from the files."""
    plan_file = os.path.join(folder, "plan.json")
    with open(plan_file, "w") as handle:
        json.dump(plan, handle)
    out = os.path.join(folder, f"{name}-{flavor}")
    command = [tool, source, plan_file, flavor, out, os.path.join(folder, "logits.bin")]
    command += [text or "", recover] if recover else [text] if text else []
    done = subprocess.run(command, capture_output=True, text=True)
    if recover and not text and done.returncode == 5:
        print(f"passed over: {name} {flavor}: random weights on random ids lose nothing that could be won back")
        return None, None, None
    if done.returncode != 0:
        check(False, f"{name} {flavor}: export failed: {done.stderr.strip()}")
        return None, None, None
    told = json.loads(done.stdout)
    model = load(out, trust=flavor == "factored")
    rows = told["rows"]
    with torch.no_grad():
        logits = model(torch.tensor([rows[0]]), use_cache=False).logits[0].numpy()
    expected = np.fromfile(os.path.join(folder, "logits.bin"), dtype=np.float32).reshape(logits.shape)
    difference = float(np.abs(logits - expected).max())
    check(difference <= LOGIT_TOLERANCE, f"{name} {flavor}: logits differ by at most {difference:.2e}")
    ppl = perplexity(model, rows)
    relative = abs(ppl / told["ppl"] - 1)
    check(
        relative <= PERPLEXITY_TOLERANCE,
        f"{name} {flavor}: perplexity {ppl:.6f} (transformers) and {told['ppl']:.6f} (Espalier, {len(rows)} windows)",
    )
    return model, told, out


def every_other_plan(experts_by_layer, ranks, factors=None, groups=1):
    """A plan with another count in every layer; `ranks`: also factored matrices, by the method `factors` (default: plain SVD).

    A router with groups keeps equally many of each: one expert of every group goes in every other layer.
    """
    layers = []
    for layer, experts in enumerate(experts_by_layer):
        if experts == 0:
            continue
        size = experts // groups
        if groups > 1:
            kept = [e for e in range(experts) if layer % 2 == 0 or e % size != layer % size]
        else:
            kept = [e for e in range(experts) if (e + layer) % (layer % 3 + 3) != 0]
        entry = {"layer": layer, "kept": kept}
        if ranks:
            entry["ranks"] = [[4 + e % 5, 0, 6] if e % 2 else [0, 0, 0] for e in range(len(kept))]
        layers.append(entry)
    plan = {"version": 1, "layers": layers}
    if factors:
        plan["factors"] = {"method": factors}
    return plan


def stored_plan(experts_by_layer, config, folder):
    """Every layer with its experts 0 and 2 merged, 1 as stored factors with biases, 3 as a stored constant, masks elsewhere; router rows
    of its own. The numbers go into the values file beside the plan.
    """
    hidden = config["hidden_size"]
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    random = np.random.default_rng(5)
    values, layers = {}, []

    def store(name, shape, scale):
        values[name] = (random.standard_normal(shape) * scale).astype(np.float32)

    for layer, experts in enumerate(experts_by_layer):
        if experts == 0:
            continue
        for matrix, (rows, columns) in shapes.items():
            store(f"layers.{layer}.experts.0.{matrix}.weight", (rows, columns), columns**-0.5)
            store(f"layers.{layer}.experts.1.{matrix}.U", (rows, 5), 0.4)
            store(f"layers.{layer}.experts.1.{matrix}.V", (5, columns), columns**-0.5)
            store(f"layers.{layer}.experts.1.{matrix}.bias", (rows,), 0.1)
        store(f"layers.{layer}.experts.3.constant", (hidden,), 0.1)
        store(f"layers.{layer}.router", (experts, hidden), hidden**-0.5)
        layers.append({"layer": layer, "experts": experts})
    file = os.path.join(folder, "plan.values.safetensors")
    save_file(values, file, metadata={"format": "pt", "espalier.values": "1"})
    with open(file, "rb") as handle:
        digest = hashlib.sha256(handle.read()).hexdigest()
    for entry in layers:
        experts = entry.pop("experts")
        low = {"form": "low-rank", "bands": [[5, 0]], "bias": True, "values": digest}
        masked = {"form": "masked", "kept": 2, "of": 4}
        entry["columns"] = [[e, e if e < 2 else 0 if e == 2 else e - 1] for e in range(experts)]
        entry["bodies"] = [
            {"sources": [0, 2], **{matrix: {"values": digest} for matrix in shapes}},
            {"sources": [1], **{matrix: low for matrix in shapes}},
            {"constant": "mean", "values": digest},
        ] + [{"sources": [e], "up": masked} for e in range(4, experts)]
        entry["router"] = digest
    return {"version": 2, "layers": layers}


def beside_plan(source, folder):
    """Every layer with its linear maps beside the experts as factors, some with a bias; half of the channels of every second expert; a rule by
    which tokens skip experts.
    """
    tensors = {}
    for file in sorted(os.listdir(source)):
        if file.endswith(".safetensors"):
            with open(os.path.join(source, file), "rb") as handle:
                size = int.from_bytes(handle.read(8), "little")
                tensors.update({k: v["shape"] for k, v in json.loads(handle.read(size)).items() if k != "__metadata__"})
    with open(os.path.join(source, "config.json")) as handle:
        config = json.load(handle)
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    random = np.random.default_rng(6)
    values, layers = {}, []
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        linears = {}
        for name, shape in sorted(tensors.items()):
            inner = name[len(prefix) :]
            if not name.startswith(prefix) or not inner.endswith(".weight") or len(shape) != 2 or ".experts." in inner:
                continue
            if inner.split(".")[-2] in ("gate", "shared_expert_gate"):
                continue
            linear, bias = inner[: -len(".weight")], len(linears) % 2 == 0
            values[f"layers.{layer}.{linear}.U"] = (random.standard_normal((shape[0], 6)) * 0.3).astype(np.float32)
            values[f"layers.{layer}.{linear}.V"] = (random.standard_normal((6, shape[1])) * 0.3).astype(np.float32)
            values[f"layers.{layer}.{linear}.bias"] = (random.standard_normal(shape[0]) * 0.1).astype(np.float32)
            linears[linear] = {"form": "low-rank", "bands": [[6, 0]], "bias": bias}
        experts = next((shape[0] for name, shape in tensors.items() if name.startswith(prefix) and name.endswith(".gate.weight")), 0)
        entry = {"layer": layer, "linears": linears}
        if experts:
            entry["columns"] = [[e, e] for e in range(experts)]
            entry["bodies"] = [{"sources": [e]} | ({"channels": list(range(0, width, 2))} if e % 2 else {}) for e in range(experts)]
            kind = "ratio" if layer % 2 else "cumulative"
            entry["skip"] = {"rule": kind, "threshold_millionths": 600000}
        layers.append(entry)
    file = os.path.join(folder, "plan.values.safetensors")
    save_file(values, file, metadata={"format": "pt", "espalier.values": "1"})
    with open(file, "rb") as handle:
        digest = hashlib.sha256(handle.read()).hexdigest()
    for entry in layers:
        for form in entry["linears"].values():
            form["values"] = digest
    return {"version": 2, "layers": layers}


def merged_plan(counts):
    """The last layer goes into the one below."""
    last = len(counts) - 1
    whole = {"columns": [[e, e] for e in range(counts[-2])], "bodies": [{"sources": [e]} for e in range(counts[-2])]} if counts[-2] else {}
    merge = {"layer": last, "alpha_millionths": 650000, "alignment": ""}
    return {"version": 2, "layers": [{"layer": last - 1, "merged_from": merge, **whole}, {"layer": last, "run": "skipped"}]}


def main():
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    demo = os.path.join(resources, "demo", "espalier-demo-moe")
    text = os.path.join(resources, "demo", "validation.txt")
    with open(os.path.join(demo, "config.json")) as handle:
        config = json.load(handle)
    layers, experts = config["num_hidden_layers"], config["num_experts"]

    with tempfile.TemporaryDirectory() as folder:
        uniform = {"version": 1, "layers": [{"layer": l, "kept": [e for e in range(experts) if (e + l) % 4]} for l in range(layers)]}
        model, told, out = compare("demo", demo, uniform, "stock", folder, text)
        if model is not None:
            check(type(model).__name__ == "Qwen2MoeForCausalLM", "demo stock: loaded by transformers' own class")
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(out, "tokenizer.json"))
            with open(text, encoding="utf-8", newline="") as handle:
                start = tokenizer(handle.read(20000), add_special_tokens=False).input_ids
            flat = [i for row in told["rows"] for i in row][:2048]
            check(start[: len(flat)] == flat, f"demo stock: the first {len(flat)} token ids are equal")

        model, told, out = compare("demo", demo, every_other_plan([experts] * layers, ranks=True), "factored", folder, text)
        if model is not None:
            counts = AutoConfig.from_pretrained(out, trust_remote_code=True).num_experts_per_layer
            check(len(set(counts)) > 1, f"demo factored: experts per layer {counts}")
            ids = torch.tensor([told["rows"][0][:32]])
            with_cache = model.generate(ids, max_new_tokens=24, do_sample=False, use_cache=True, pad_token_id=0)
            without = model.generate(ids, max_new_tokens=24, do_sample=False, use_cache=False, pad_token_id=0)
            check(bool(torch.equal(with_cache, without)), "demo factored: the same text is generated with and without cache")
            half = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True, dtype="auto")
            ppl = perplexity(half.eval(), told["rows"][:4])
            check(half.dtype == torch.bfloat16 and math.isfinite(ppl), f"demo factored: runs in bfloat16 (perplexity {ppl:.3f})")

        compare("demo mended", demo, uniform, "stock", folder, text, recover="least-squares")
        compare("demo mended", demo, every_other_plan([experts] * layers, ranks=True), "factored", folder, text, recover="least-squares")

        found = {}
        for parent in fixtures:
            for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
                found.setdefault(name, os.path.join(parent, name))
        for name, source in found.items():
            try:
                with open(os.path.join(source, "config.json")) as handle:
                    config = json.load(handle)
            except OSError:
                continue
            count = next((config[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if k in config), 0)
            if "ties" in name:
                continue  # equal scores: which of two experts is taken is not defined, and only one of them is factored
            if config.get("model_type") not in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"):
                continue
            counts = []
            for layer in range(config["num_hidden_layers"]):
                dense = layer < config.get("first_k_dense_replace", 0) or layer in (config.get("mlp_only_layers") or [])
                dense = dense or (layer + 1) % config.get("decoder_sparse_step", 1) != 0
                counts.append(0 if dense else count)
            groups = config.get("n_group", 1) if config.get("topk_method") in ("group_limited_greedy", "noaux_tc") else 1
            compare(name, source, every_other_plan(counts, ranks=True, groups=groups), "factored", folder)
            whitened = every_other_plan(counts, ranks=True, factors="whitened-svd", groups=groups)
            compare(name + " whitened", source, whitened, "factored", folder)
            if all(c == 0 or c > 3 for c in counts):
                compare(name + " stored", source, stored_plan(counts, config, folder), "factored", folder)
            compare(name + " beside", source, beside_plan(source, folder), "factored", folder)
            if counts[-1] == counts[-2]:
                compare(name + " merged", source, merged_plan(counts), "stock", folder)
            first = {g * (c // groups) for c in counts for g in range(groups)}
            half = {"version": 1, "layers": [{"layer": l, "kept": [e for e in range(c) if e not in first]} for l, c in enumerate(counts) if c]}
            compare(name, source, half, "stock", folder)
            compare(name + " mended", source, half, "stock", folder, recover="least-squares")
            # The whole checkpoint again, factored matrices multiplied out: any loader of the architecture takes it.
            for entry in half["layers"]:
                entry["ranks"] = [[4, 0, 6]] * len(entry["kept"])
            compare(name, source, half, "reconstructed", folder)

    if failures:
        sys.exit(f"{len(failures)} of the comparisons failed")


main()
