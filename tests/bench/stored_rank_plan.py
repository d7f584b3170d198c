"""A plan for a made checkpoint whose factors are random numbers of a values file: for timing, where no decomposition has to be waited for.

stored_rank_plan.py MODEL OUT.json [--drop 0.25] [--rank 525] [--shared-rank 944]: every layer keeps the same share of its experts, each
matrix in two factors; so are those of the shared expert where a rank is given for them.
"""

import argparse
import hashlib
import json
import os
import struct

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--drop", type=float, default=0.25)
parser.add_argument("--rank", type=int, default=525)
parser.add_argument("--shared-rank", type=int, default=0)
options = parser.parse_args()
with open(os.path.join(options.model, "config.json")) as file:
    config = json.load(file)
hidden = config["hidden_size"]
width = config.get("moe_intermediate_size") or config["intermediate_size"]
experts = config.get("num_experts") or config.get("num_local_experts") or config["n_routed_experts"]
kept = range(round(experts * (1 - options.drop)))
generator = np.random.default_rng(0)


def bf16(rows, columns):
    numbers = generator.standard_normal((rows, columns), dtype=np.float32) * 0.02
    return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()


header, parts, offset, layers = {"__metadata__": {"espalier.values": "1", "made_by": '{"method":"random"}'}}, [], 0, []


def factors(name, rows, columns, rank):
    global offset
    for part, shape in {"U": (rows, rank), "V": (rank, columns)}.items():
        data = bf16(*shape)
        header[f"{name}.{part}"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)


shared = config.get("shared_expert_intermediate_size") or width * config.get("n_shared_experts", 0)
shared_name = "mlp.shared_expert" if "shared_expert_intermediate_size" in config else "mlp.shared_experts"
if options.shared_rank and not shared:
    parser.error(f"{options.model} has no shared expert")
for layer in range(config["num_hidden_layers"]):
    for expert in kept:
        for matrix, (rows, columns) in {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}.items():
            factors(f"layers.{layer}.experts.{expert}.{matrix}", rows, columns, options.rank)
    if options.shared_rank:
        for matrix, (rows, columns) in {"gate": (shared, hidden), "up": (shared, hidden), "down": (hidden, shared)}.items():
            factors(f"layers.{layer}.{shared_name}.{matrix}_proj", rows, columns, options.shared_rank)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
values = options.out.removesuffix(".json") + ".values.safetensors"
digest = hashlib.sha256()
with open(values, "wb") as file:
    for piece in [struct.pack("<Q", len(text)), text, *parts]:
        file.write(piece)
        digest.update(piece)
identity = digest.hexdigest()


def low_rank(rank):
    return {"form": "low-rank", "bands": [[rank, 0]], "values": identity}


form = low_rank(options.rank)
for layer in range(config["num_hidden_layers"]):
    bodies = [{"sources": [expert], "gate": form, "up": form, "down": form} for expert in kept]
    layers.append({"layer": layer, "columns": [[expert, expert] for expert in kept], "bodies": bodies})
    if options.shared_rank:
        layers[-1]["linears"] = {f"{shared_name}.{matrix}_proj": low_rank(options.shared_rank) for matrix in ("gate", "up", "down")}
plan = {"version": 2, "layers": layers, "values": [{"id": identity, "file": os.path.basename(values)}]}
with open(options.out, "w") as file:
    json.dump(plan, file)
