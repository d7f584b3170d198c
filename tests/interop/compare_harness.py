"""`espalier-engine tasks` beside lm-evaluation-harness itself: same predictions, accuracies, errors and log-likelihoods, of the dense model
and under plans, where the harness reads the exported checkpoint (stock and factored).

compare_harness.py ENGINE RESOURCES FIXTURES
"""

import json
import os
import subprocess
import sys
import tempfile

import harness_tasks as harness  # sets the environment before anything of Hugging Face is read
import torch

LOG_LIKELIHOOD_TOLERANCE = 1e-3

engine, resources, fixtures = sys.argv[1:]
failures = []


def check(condition, text):
    print(("ok      " if condition else "FAILED  ") + text, flush=True)
    if not condition:
        failures.append(text)


def run(*arguments):
    done = subprocess.run([engine, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def best(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


def printed(value):
    return "N/A" if isinstance(value, str) or value is None else f"{value:.4f}"


def compare(name, ours, samples_file, theirs, tasks):
    """What our tasks said against what the harness said of the same questions."""
    samples = {}
    with open(samples_file, encoding="utf-8") as handle:
        for line in handle:
            sample = json.loads(line)
            samples.setdefault(sample["task"], []).append(sample)
    worst, items, predictions = 0.0, 0, 0
    for task in tasks:
        result = theirs["results"][task]
        for metric in ("acc", "acc_norm"):
            if f"{metric},none" not in result:
                check(metric not in ours["tasks"][task], f"{name} {task}: no {metric}")
                continue
            for key, other in ((metric, f"{metric},none"), (f"{metric}_stderr", f"{metric}_stderr,none")):
                mine, golden = printed(ours["tasks"][task][key]), printed(result[other])
                if mine != golden:
                    check(False, f"{name} {task}: {key} {mine}, the harness {golden}")
        rows = sorted(theirs["samples"][task], key=lambda s: s["doc_id"])
        if len(rows) != len(samples[task]):
            check(False, f"{name} {task}: {len(samples[task])} questions, the harness {len(rows)}")
            continue
        for row, sample in zip(rows, samples[task]):
            sums = [float(r[0]) for r in row["filtered_resps"]]
            worst = max(worst, max(abs(a - b) for a, b in zip(sums, sample["loglikelihoods"])))
            items += 1
            # Two sums nearer than rounding are no prediction that could agree.
            order = sorted(sums, reverse=True)
            if len(order) > 1 and 0 < order[0] - order[1] < LOG_LIKELIHOOD_TOLERANCE:
                continue
            predictions += 1
            if best(sums) != sample["prediction"]:
                check(False, f"{name} {task}: question {sample['doc']} is answered {sample['prediction']}, by the harness {best(sums)}")
    check(
        worst <= LOG_LIKELIHOOD_TOLERANCE,
        f"{name}: {items} questions of {len(tasks)} tasks, {predictions} predictions compared, log-likelihoods differ by at most {worst:.1e}",
    )


def folder_of_tasks(path):
    """{name: (rules, file)} as espalier-engine reads a folder."""
    tasks = {rules: (rules, os.path.join(path, f"{rules}.jsonl")) for rules in harness.BUILT_IN}
    tasks = {name: task for name, task in tasks.items() if os.path.exists(task[1])}
    listed = os.path.join(path, "tasks.json")
    if os.path.exists(listed):
        with open(listed, encoding="utf-8") as handle:
            for name, entry in json.load(handle).items():
                tasks[name] = (entry["rules"], os.path.join(path, entry["file"]))
    return tasks


def plans_of(model):
    """A plan that every loader of the architecture takes, and one with factors and counts that differ."""
    with open(os.path.join(model, "config.json"), encoding="utf-8") as handle:
        config = json.load(handle)
    layers = config["num_hidden_layers"]
    experts = next(config[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if k in config)
    stock = [{"layer": l, "kept": [e for e in range(experts) if e != l % experts]} for l in range(layers)]
    factored = []
    for l in range(layers):
        kept = [e for e in range(experts) if e > l % 2]
        factored.append({"layer": l, "kept": kept, "ranks": [[8, 0, 8] if e % 2 else [0, 0, 0] for e in kept]})
    return {"stock": {"version": 1, "layers": stock}, "factored": {"version": 1, "layers": factored}}


def few_shot(model, folder, samples, scratch):
    """Answered questions before each one, as far as the harness's separators go: between question and answer, and between questions."""
    tasks = {name: task for name, task in folder_of_tasks(folder).items() if name in ("arc_easy", "hellaswag", "winogrande")}
    loaded = harness.load(model, 1)
    for examples in (1, 2, 3):
        yaml = tempfile.mkdtemp(dir=scratch)
        harness.write_tasks(yaml, tasks, examples)
        ours = run("tasks", model, "--data", folder, "--tasks", ",".join(tasks), "--fewshot", str(examples), "--limit", "20", "--dtype", "fp32",
                   "--samples", samples, "--force")
        compare(f"{os.path.basename(model)} with {examples} answered before", ours, samples, harness.evaluate(loaded, yaml, tasks, 20), tasks)


def main():
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    data = os.path.join(fixtures, "data")
    demo = os.path.join(resources, "demo", "espalier-demo-moe")
    own = os.path.join(resources, "demo", "tasks")
    models = os.path.join(fixtures, "models")
    # Questions of each task; the harness takes a second for ten of the demo model.
    jobs = [("espalier-demo-moe", demo, own, {"dense": 60, "stock": 40, "factored": 40}), ("espalier-demo-moe", demo, data, {"dense": 12})]
    for name in sorted(os.listdir(models)):
        jobs.append((name, os.path.join(models, name), data, {"dense": None, "stock": 20, "factored": 20}))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = os.path.join(scratch, "cache")
        samples = os.path.join(scratch, "samples.jsonl")
        for name, model, folder, limits in jobs:
            tasks = folder_of_tasks(folder)
            yaml = tempfile.mkdtemp(dir=scratch)
            harness.write_tasks(yaml, tasks)
            plans = plans_of(model)
            for what, limit in limits.items():
                arguments = ["tasks", model, "--data", folder, "--dtype", "fp32", "--samples", samples, "--force"]
                if limit:
                    arguments += ["--limit", str(limit)]
                exported = model
                if what != "dense":
                    plan = os.path.join(scratch, "plan.json")
                    with open(plan, "w", encoding="utf-8") as handle:
                        json.dump(plans[what], handle)
                    exported = os.path.join(scratch, f"{name}-{what}")
                    run("export", model, "--plan", plan, "--out", exported, "--flavor", what)
                    arguments += ["--plan", plan, "--against", "none"]
                ours = run(*arguments)
                # Equal choices are a tie: rows that are padded to each other's length are not equal to the last bit.
                theirs = harness.evaluate(harness.load(exported, 8 if model == demo else 1, trust=what == "factored"), yaml, tasks, limit)
                compare(f"{name} {what}, {os.path.basename(folder)}", ours, samples, theirs, tasks)
        few_shot(os.path.join(models, "qwen3-nobos"), data, samples, scratch)
    if failures:
        sys.exit(f"{len(failures)} of the comparisons failed")


main()
