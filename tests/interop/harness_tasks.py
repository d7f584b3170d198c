"""Tasks of lm-evaluation-harness on local files: the templates, metrics and processing of its own built-in tasks, only the data is ours."""

import os
import tempfile
import warnings

# Everything is local: nothing may be looked up elsewhere, and caches go with the run.
_home = tempfile.TemporaryDirectory(prefix="espalier-harness-")
os.environ.update(
    HF_HOME=_home.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TQDM_DISABLE="1",
)
warnings.filterwarnings("ignore", message="divide by zero")

import lm_eval  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

BUILT_IN = {
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "rte": "glue/rte/default.yaml",
    "winogrande": "winogrande/default.yaml",
}


def write_tasks(folder, tasks, examples=0):
    """YAML files in `folder` for tasks {name: (rules, file)}; before each question the first so many others, answered."""
    # The harness leaves a question out of its own examples where they come from the test split, and only there.
    split = "test" if examples else "validation"
    built_in = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")
    for name, (rules, file) in tasks.items():
        with open(os.path.join(folder, f"{name}.yaml"), "w", encoding="utf-8") as handle:
            handle.write(
                f"include: {os.path.join(built_in, BUILT_IN[rules])}\n"
                f"task: {name}\n"
                "tag: null\n"
                "dataset_path: json\n"
                "dataset_name: null\n"
                "dataset_kwargs:\n"
                "  data_files:\n"
                f"    {split}: {os.path.abspath(file)}\n"
                "training_split: null\n"
                f"validation_split: {'null' if examples else split}\n"
                f"test_split: {split if examples else 'null'}\n"
                f"num_fewshot: {examples}\n"
                + ("fewshot_split: test\nfewshot_config:\n  sampler: first_n\n" if examples else "")
            )


def load(model, batch_size, trust=False):
    extra = {"trust_remote_code": True} if trust else {}
    if trust:
        # AutoTokenizer chooses by the model type, which it does not know; the file itself is always right.
        from transformers import PreTrainedTokenizerFast

        extra["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(model)
    # Without its cache of logits, which scores two requests that begin alike and are split at different places as one.
    return HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=batch_size, logits_cache=False, **extra)


def evaluate(model, folder, names, limit=None):
    """The harness's results and samples of the tasks whose YAML files are in `folder`."""
    return lm_eval.simple_evaluate(
        model=model,
        tasks=list(names),
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        log_samples=True,
        limit=limit,
    )
