"""Search by running the layer: for every set of kept experts the MoE module of transformers is run again on the layer's cached inputs and
compared with its dense output, as NAEE (arXiv 2402.14800) enumerates and as MoE-I2 (arXiv 2411.01016) rates the candidates of its search.

peer_enumeration.py MODEL IDS fp32|bf16 LAYER KEEP SECONDS

Tries all sets of KEEP experts in order if the first three say that this takes at most SECONDS, else only as many, evenly spread, as fit.
The loss of a set is the Frobenius norm over all tokens ("losses", what Espalier minimises) and, as NAEE adds it up, the sum of the norms
over batches of 2,048 tokens ("batch_losses", its samples' length). The router sees the rows of the kept experts only, which is what
masking the logits of the others with minus infinity comes to."""

import copy
import itertools
import math
import time

import torch
import transformers

from peer_common import TYPES, arguments, report, setup, timed, windows_of

BATCH_TOKENS = 2048


class KeptRouter(torch.nn.Module):
    """transformers' own router over the kept experts; indices are those of the dense layer."""

    def __init__(self, router):
        super().__init__()
        self.router, self.all_rows = copy.copy(router), router.weight.data
        self.keep(range(len(self.all_rows)))

    def keep(self, experts):
        self.kept = torch.tensor(list(experts))
        self.router._parameters = {"weight": torch.nn.Parameter(self.all_rows[self.kept], requires_grad=False)}

    def forward(self, hidden):
        logits, scores, indices = self.router(hidden)
        return logits, scores, self.kept[indices]


def cached_inputs(model, layer, windows):
    """Inputs of the layer's MoE module in batches of 2,048 tokens; layers beyond it are not run."""
    model.model.layers = model.model.layers[:layer + 1]
    block, inputs = model.model.layers[layer].mlp, []
    hook = block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for batch in windows.split(max(1, BATCH_TOKENS // windows.shape[1])):
        model.model(input_ids=batch, use_cache=False)
    hook.remove()
    return block, inputs


def main():
    model_path, ids_path, dtype, layer, keep, most = arguments(__doc__, 6)[:6]
    layer, keep, most = int(layer), int(keep), float(most)
    setup()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=TYPES[dtype], experts_implementation="eager").eval()
    windows = windows_of(ids_path)
    caching, (block, inputs) = timed(lambda: cached_inputs(model, layer, windows))
    del model
    plain, dense = timed(lambda: [block(x) for x in inputs])
    block.gate = router = KeptRouter(block.gate)
    experts = len(router.all_rows)
    # The wrapped router must not change what the dense layer says.
    assert all(torch.equal(block(x), y) for x, y in zip(inputs, dense))
    dense = [y.double() for y in dense]

    seconds, losses, batch_losses = [], {}, {}

    def rate(kept):
        start = time.perf_counter()
        router.keep(kept)
        norms = [torch.linalg.vector_norm(block(x).double() - y).item() for x, y in zip(inputs, dense)]
        name = " ".join(map(str, kept))
        losses[name] = math.sqrt(sum(norm * norm for norm in norms))
        batch_losses[name] = sum(norms)
        seconds.append(time.perf_counter() - start)

    sets = list(itertools.combinations(range(experts), keep))
    start = time.perf_counter()
    for kept in sets[:3]:
        rate(kept)
    fitting = int(most / sorted(seconds)[len(seconds) // 2])
    complete = len(sets) <= max(3, fitting)
    rest = sets[3:] if complete else sets[3::max(1, math.ceil(len(sets) / max(1, fitting)))]
    for kept in rest:
        rate(kept)
    took = time.perf_counter() - start
    middle = sorted(seconds)[len(seconds) // 2]
    report({"item": "enumeration", "layer": layer, "experts": experts, "keep": keep, "tokens": windows.numel(), "sets": len(sets),
            "rated": len(losses), "complete": complete, "seconds_per_set": middle, "seconds_each": seconds,
            "seconds": took if complete else middle * len(sets), "caching_seconds": caching, "plain_seconds": plain,
            "dense_norm": math.sqrt(sum(torch.linalg.vector_norm(y).item() ** 2 for y in dense)),
            "losses": losses, "batch_losses": batch_losses, "transformers": transformers.__version__})


if __name__ == "__main__":
    main()
