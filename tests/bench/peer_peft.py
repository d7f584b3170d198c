"""Training steps of peft's adapters in PyTorch: what training_bench is set beside. The same tensors get adapters: projections of attention,
shared experts, and the experts' fused matrices (as parameters). One JSON object.

peer_peft.py MODEL IDS.json RANK STEPS THREADS [--checkpointing]"""

import json
import resource
import sys
import time

import peft
import torch
from transformers import AutoModelForCausalLM


def main():
    model_path, ids_path = sys.argv[1:3]
    rank, steps, threads = (int(v) for v in sys.argv[3:6])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with open(ids_path) as file:
        ids = torch.tensor(json.load(file), dtype=torch.int64)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, experts_implementation="eager")
    model.config.use_cache = False
    if "--checkpointing" in sys.argv:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
        target_modules=r".*\.(q_proj|k_proj|v_proj|o_proj|shared_expert\.(gate_proj|up_proj|down_proj))",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    model = peft.get_peft_model(model, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    most = max(2048 // ids.shape[1], 1)
    seconds, losses = [], []
    for step in range(steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = 0.0
        for part in ids.split(most):
            share = model(input_ids=part, labels=part).loss * (len(part) / len(ids))
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if step > 0:
            seconds.append(time.perf_counter() - start)
        losses.append(loss)
    median = sorted(seconds)[len(seconds) // 2]
    print(json.dumps({
        "seconds": seconds, "losses": losses, "trained": sum(p.numel() for p in trained),
        "tokens_per_second": ids.numel() / median, "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
