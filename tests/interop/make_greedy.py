"""Greedy continuations of the tiny models by Hugging Face transformers: tests/fixtures/generate/greedy.json.

make_greedy.py FIXTURES OUT, where FIXTURES is tests/fixtures/model. For every model two prompts, 64 tokens each, and the smallest gap between
the first and the second logit on the way: where it is small a correct program may go the other way, so prompts are taken from the model's
stream until the gap is large.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

TOKENS = 64
GAP = 5e-3
PROMPT = 12

fixtures, out = sys.argv[1:]
torch.set_num_threads(1)


def greedy(model, prompt):
    """Ids, and the smallest gap. The cache is transformers' own."""
    with torch.no_grad():
        done = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, use_cache=True, eos_token_id=None,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True
        )
    logits = torch.stack(done.logits)[:, 0].float()
    top = logits.topk(2, dim=-1).values
    logprobs = torch.log_softmax(logits.double(), -1)
    ids = done.sequences[0, len(prompt):].tolist()
    return ids, [round(logprobs[i, id].item(), 6) for i, id in enumerate(ids)], (top[:, 0] - top[:, 1]).min().item()


result = {}
for name in sorted(os.listdir(os.path.join(fixtures, "checkpoints"))):
    golden = os.path.join(fixtures, "goldens", name + ".safetensors")
    if not os.path.exists(golden) or name in ("glm4moe-tiny", "gptoss-tiny"):
        continue
    with safe_open(golden, "pt") as file:
        stream = file.get_tensor("stream_ids").flatten().tolist()
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(fixtures, "checkpoints", name), dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    cases = []
    for begin in range(0, len(stream) - PROMPT, PROMPT):
        prompt = stream[begin : begin + PROMPT]
        ids, logprobs, gap = greedy(model, prompt)
        if gap >= GAP:
            cases.append({"prompt": prompt, "ids": ids, "logprobs": logprobs, "gap": round(gap, 6)})
        if len(cases) == 2:
            break
    print(name, [case["gap"] for case in cases], flush=True)
    assert len(cases) == 2, name
    result[name] = cases
with open(out, "w") as file:
    file.write("{\n" + ",\n".join(f'"{name}": {json.dumps(cases)}' for name, cases in result.items()) + "\n}\n")
