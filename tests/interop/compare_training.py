"""Gradients and losses of Espalier's training against PyTorch's autograd and optimiser on models of transformers.

compare_training.py TOOL CHECKPOINTS

For every architecture, dense and under a plan (experts removed, matrices factored): the gradient of every trainable tensor within 1e-4 of
autograd's (relative to its norm), and the losses of ten steps of AdamW with warm-up, cosine and clipping within 1e-4. Where peft is
installed, its adapters on attention and shared experts give the same gradients as well.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.optimization import get_cosine_schedule_with_warmup

STEPS = 10
CASES = [  # folder, experts kept in every layer (None: all), ranks
    ("mixtral-tiny", None, None), ("mixtral-tiny", 5, (6, 0, 5)),
    ("qwen2moe-tiny", None, None), ("qwen2moe-tiny", 7, (5, 4, 0)),
    ("qwen2moe-mlponly", None, None),
    ("qwen3moe-tiny", None, None), ("qwen3moe-tiny", 6, (4, 4, 4)),
    ("olmoe-tiny", None, None), ("olmoe-tiny", 8, (0, 0, 6)),
    ("deepseekv2-lite-tiny", None, None), ("deepseekv2-lite-tiny", 6, (4, 0, 4)),
    ("deepseekv2-full-tiny", None, None),
]
failures = []


def check(ok, text):
    print(("ok    " if ok else "FAIL  ") + text)
    if not ok:
        failures.append(text)


def expert_count_key(config):
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if getattr(config, key, None):
            return key
    raise SystemExit("no expert count in the configuration")


def write_plan(path, model, config, kept, ranks):
    experts = getattr(config, expert_count_key(config))
    chosen = sorted(sorted(range(experts), key=lambda e: (e * 7 + 3) % experts)[:kept])
    layers = []
    for index, layer in enumerate(model.model.layers):
        if not hasattr(layer.mlp, "gate") or not hasattr(layer.mlp, "experts"):
            continue
        entry = {"layer": index, "kept": chosen}
        if ranks:
            entry["ranks"] = [list(ranks) for _ in chosen]
        layers.append(entry)
    plan = {"version": 1, "layers": layers}
    if ranks:
        plan["factors"] = {"method": "svd"}
    path.write_text(json.dumps(plan))
    return chosen


class Reference:
    """A model of transformers whose matrices are functions of what is trained."""

    def __init__(self, folder, out):
        self.report = json.loads((out / "report.json").read_text())
        self.state = load_file(str(out / "state.safetensors"))
        self.bases = {}
        for file in (out / "bases").glob("*.safetensors"):
            self.bases.update(load_file(str(file)))
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        config = AutoConfig.from_pretrained(folder)
        columns = self.report["columns"]
        counts = {len(c) for c in columns if c}
        key = expert_count_key(config)
        experts = getattr(config, key)
        kept = counts.pop()
        assert not counts, "the same number everywhere"
        setattr(config, key, kept)
        config._attn_implementation = "eager"
        self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        values = whole.state_dict()
        for name, value in list(values.items()):
            parts = name.split(".")
            if ".mlp.experts." in name or name.endswith("mlp.gate.weight") or name.endswith("e_score_correction_bias"):
                layer = columns[int(parts[2])]
                if layer and value.shape[0] == experts:
                    values[name] = value[torch.tensor(layer)].clone()
        self.model.load_state_dict(values)
        self.model.eval()
        self.parameters = {n[len("start."):]: t.clone().requires_grad_(True) for n, t in self.state.items() if n.startswith("start.")}
        self.columns = columns
        self.ids = self.state["ids"].long()

    def matrix(self, base):
        """W + s b a; (U + s b a)(V + s b a)"""
        def part(name):
            value = self.bases[name]
            if name + ".lora_a" in self.parameters:
                value = value + self.report["scale"] * self.parameters[name + ".lora_b"] @ self.parameters[name + ".lora_a"]
            return value
        if base + ".U" in self.bases:
            return part(base + ".U") @ part(base + ".V")
        return part(base + ".weight")

    def weights(self):
        changed = {}
        names = {n for n, _ in self.model.named_parameters()}
        stems = {n.rsplit(".", 1)[0] for n in self.bases}
        for l, columns in enumerate(self.columns):
            prefix = f"layers.{l}."
            router = f"layers.{l}.router"
            if router in self.parameters:
                changed[f"model.layers.{l}.mlp.gate.weight"] = self.parameters[router]
            for stem in stems:
                if stem.startswith(prefix) and ".experts." not in stem and not stem.endswith("router"):
                    name = f"model.{stem}.weight"
                    if name in names:
                        changed[name] = self.matrix(stem)
            if not any(s.startswith(prefix + "experts.") for s in stems):
                continue
            gate_up, down = [], []
            for e in columns:
                at = f"layers.{l}.experts.{e}."
                gate_up.append(torch.cat([self.matrix(at + "gate"), self.matrix(at + "up")]))
                down.append(self.matrix(at + "down"))
            changed[f"model.layers.{l}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
            changed[f"model.layers.{l}.mlp.experts.down_proj"] = torch.stack(down)
        assert all(n in names for n in changed), [n for n in changed if n not in names]
        return changed

    def loss(self, rows):
        logits = torch.func.functional_call(self.model, self.weights(), (rows,), {"use_cache": False}).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), rows[:, 1:].reshape(-1))


def compare(tool, folder, kept, ranks):
    label = f"{folder.name} {'whole' if kept is None else f'{kept} experts, ranks {ranks}'}"
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        plan = "-"
        if kept is not None:
            plan = work / "plan.json"
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            write_plan(plan, model, AutoConfig.from_pretrained(folder), kept, ranks)
        subprocess.run([tool, folder, plan, work / "out", str(STEPS)], check=True)
        reference = Reference(folder, work / "out")
    reference.loss(reference.ids[:2]).backward()
    worst, where, largest = 0.0, "", max(p.grad.norm().item() for p in reference.parameters.values())
    for name, parameter in reference.parameters.items():
        own = reference.state["gradient." + name]
        # A tensor whose gradient is rounding alone is held to the largest one.
        error = (own - parameter.grad).norm().item() / max(parameter.grad.norm().item(), 1e-4 * largest)
        if error > worst:
            worst, where = error, name
    check(worst < 1e-4, f"{label}: {len(reference.parameters)} gradients, largest difference {worst:.1e} ({where})")

    report = reference.report
    parameters = list(reference.parameters.values())
    optimiser = torch.optim.AdamW(parameters, lr=report["rate"], weight_decay=report["decay"])
    schedule = get_cosine_schedule_with_warmup(optimiser, report["warmup"], report["steps"])
    worst = 0.0
    for step, own in enumerate(report["losses"]):
        rows = reference.ids[[(2 * step + i) % len(reference.ids) for i in range(2)]]
        optimiser.zero_grad(set_to_none=False)
        loss = reference.loss(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, report["clip"])
        optimiser.step()
        schedule.step()
        worst = max(worst, abs(loss.item() - own))
    check(worst < 1e-4, f"{label}: losses of {STEPS} steps, largest difference {worst:.1e}")
    return reference


def compare_peft(tool, folder):
    """peft's own adapters on nn.Linear modules, with the same start."""
    try:
        import peft
    except ImportError:
        print("SKIPPED: peft is not installed in this environment; its adapters were not compared.")
        return
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([tool, folder, "-", pathlib.Path(work) / "out", str(STEPS), "attention"], check=True)
        reference = Reference(folder, pathlib.Path(work) / "out")
    report = reference.report
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=modules))
    names = {}
    for name, module in tuned.named_modules():
        if not hasattr(module, "lora_A") or "default" not in getattr(module, "lora_A", {}):
            continue
        stem = name[name.index("layers."):] + ".weight"
        module.lora_A["default"].weight.data.copy_(reference.state[f"start.{stem}.lora_a"])
        module.lora_B["default"].weight.data.copy_(reference.state[f"start.{stem}.lora_b"])
        names[stem] = module
    trained = [p for p in tuned.parameters() if p.requires_grad]
    check(len(trained) == 2 * len(names) == len(reference.parameters), f"{folder.name}: peft trains the same {len(trained)} tensors")
    tuned.eval()
    optimiser = torch.optim.AdamW(trained, lr=report["rate"], weight_decay=report["decay"])
    schedule = get_cosine_schedule_with_warmup(optimiser, report["warmup"], report["steps"])
    worst, worst_loss = 0.0, 0.0
    for step, own in enumerate(report["losses"]):
        rows = reference.ids[[(2 * step + i) % len(reference.ids) for i in range(2)]]
        optimiser.zero_grad(set_to_none=False)
        loss = tuned(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        if step == 0:
            for stem, module in names.items():
                for part, layer in (("lora_a", module.lora_A), ("lora_b", module.lora_B)):
                    theirs = layer["default"].weight.grad
                    ours = reference.state[f"gradient.{stem}.{part}"]
                    worst = max(worst, (ours - theirs).norm().item() / theirs.norm().item())
        torch.nn.utils.clip_grad_norm_(trained, report["clip"])
        optimiser.step()
        schedule.step()
        worst_loss = max(worst_loss, abs(loss.item() - own))
    check(len(names) > 0 and worst < 1e-4, f"{folder.name}: gradients of peft's {2 * len(names)} adapter tensors, largest difference {worst:.1e}")
    check(worst_loss < 1e-4, f"{folder.name}: losses of {STEPS} steps with peft, largest difference {worst_loss:.1e}")


def main():
    tool, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.manual_seed(0)
    for name, kept, ranks in CASES:
        compare(tool, folder / name, kept, ranks)
    compare_peft(tool, folder / "qwen2moe-tiny")
    if failures:
        raise SystemExit(f"{len(failures)} comparisons failed")


main()
