# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the Espalier authors
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with the License.
# You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to
# in writing, software distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND.
#
# Why not the licence of Espalier itself: this file is copied into every factored export and travels with the weights, which belong to
# whoever made them. A permissive licence, the one most model code uses, leaves that person free in how to pass them on.
"""Configuration of a model compressed by Espalier: layers with different numbers of experts, expert matrices as products of two.

Loaded by transformers through `auto_map` (trust_remote_code=True). config.json holds the keys of the original model and, besides,

* `model_type`: "espalier_<base>"
* `num_experts_per_layer`: routed experts of every layer, 0 in a dense one
* `espalier`: {"version", "base_model_type", "kept_experts", "ranks"}; `ranks[layer][expert]` = [gate, up, down], 0 = not factored.
  Version 2 adds, each with one list per layer: `constants`, experts that are one vector; `bodies[layer][expert]`, the expert whose weights
  it uses (an empty list: each its own); `biases`, pairs [expert, matrix] of factors with a bias
  Version 3 adds `linears[layer]`: {"self_attn.q_proj": {"rank", "bias"}}, maps beside the experts that are factors; and
  `skip[layer]`: {"rule": "ratio" or "cumulative", "threshold_millionths"} or null, chosen experts that a token skips; and
  `widths[layer]`: the intermediate width of every expert (an empty list: all have the model's)
"""

try:
    from transformers.configuration_utils import PreTrainedConfig
except ImportError:  # transformers 4
    from transformers.configuration_utils import PretrainedConfig as PreTrainedConfig

SUPPORTED_VERSIONS = (1, 2, 3)
SUPPORTED_BASES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3")
LATENT_BASES = ("deepseek_v2", "deepseek_v3")  # multi-head latent attention, shared experts as one MLP
PREFIX = "espalier_"


def require(values, key, base):
    """The value of a key without which nothing may be computed: no default stands in for it."""
    if values.get(key) is None:
        raise ValueError(f"config.json of this {base} model lacks `{key}`.")
    return values[key]


def rope_parameters(values):
    """RoPE settings as one dict, from the spelling of transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`)."""
    merged = dict(values.get("rope_scaling") or {})
    merged.update(values.get("rope_parameters") or {})
    if "rope_theta" not in merged:
        merged["rope_theta"] = values.get("rope_theta")
    if merged["rope_theta"] is None:
        raise ValueError("config.json lacks `rope_theta`.")
    merged["rope_type"] = merged.get("rope_type") or merged.get("type") or "default"
    merged.pop("type", None)
    if merged["rope_type"] not in ("default", "yarn"):
        raise ValueError(f"RoPE type {merged['rope_type']!r} is not supported by this file.")
    return merged


def attention_windows(values, base):
    """Sliding window of every layer, None where the layer sees everything."""
    layers = values["num_hidden_layers"]
    window = values.get("sliding_window")
    if base == "mixtral":
        return [window] * layers
    if base in ("qwen2_moe", "qwen3_moe") and values.get("use_sliding_window") and window is not None:
        if base == "qwen3_moe":
            return [window] * layers
        if values.get("layer_types"):
            return [window if kind == "sliding_attention" else None for kind in values["layer_types"]]
        first_full = values.get("max_window_layers", layers)
        return [window if layer < first_full and layer % 2 == 0 else None for layer in range(layers)]
    return [None] * layers


class EspalierConfig(PreTrainedConfig):
    model_type = "espalier"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, espalier=None, num_experts_per_layer=None, **kwargs):
        model_type = kwargs.pop("model_type", None)
        if espalier is None:
            # transformers builds an empty instance to learn the defaults; a model cannot be made from it.
            super().__init__(**kwargs)
            return

        version = espalier.get("version")
        if version not in SUPPORTED_VERSIONS:
            raise ValueError(f"This export has format version {version!r}; this file reads versions {SUPPORTED_VERSIONS}.")
        unknown = set(espalier) - {"version", "base_model_type", "kept_experts", "ranks", "constants", "bodies", "biases", "linears", "skip", "widths"}
        if unknown:
            raise ValueError(f"This export holds {sorted(unknown)}, which this file does not know.")
        base = espalier.get("base_model_type")
        if base not in SUPPORTED_BASES:
            raise ValueError(f"Base architecture {base!r} is not supported; supported are {', '.join(SUPPORTED_BASES)}.")
        if model_type is not None and model_type not in (PREFIX + base, self.model_type):
            raise ValueError(f"model_type {model_type!r} contradicts base_model_type {base!r}.")
        layers = require(kwargs, "num_hidden_layers", base)
        if num_experts_per_layer is None or len(num_experts_per_layer) != layers:
            raise ValueError(f"`num_experts_per_layer` must list the experts of all {layers} layers.")
        ranks = espalier.get("ranks")
        if ranks is not None and [len(rows) for rows in ranks] not in (list(num_experts_per_layer), [0] * layers):
            raise ValueError("`espalier.ranks` does not match `num_experts_per_layer`.")

        for key in ("constants", "bodies", "biases", "linears", "skip", "widths"):
            if espalier.get(key) is not None and len(espalier[key]) != layers:
                raise ValueError(f"`espalier.{key}` must list all {layers} layers.")
        for experts, owners in zip(num_experts_per_layer, espalier.get("bodies") or []):
            if owners and (len(owners) != experts or any(not 0 <= o <= e or owners[o] != o for e, o in enumerate(owners))):
                raise ValueError("`espalier.bodies` leads an expert to one that has no weights of its own.")

        windows = attention_windows(kwargs, base)
        rope = rope_parameters(kwargs)
        for key in ("rope_theta", "rope_scaling", "rope_parameters", "layer_types"):
            kwargs.pop(key, None)
        # The layer's own number where the plan lowered it; never more than there are experts.
        top_k = require(kwargs, "num_experts_per_tok", base)
        overrides = {int(layer): values for layer, values in (kwargs.get("per_layer_config") or {}).items()}
        top_ks = [
            min(overrides.get(layer, {}).get("num_experts_per_tok", top_k), experts)
            for layer, experts in enumerate(num_experts_per_layer)
        ]
        window = next((w for w in windows if w is not None), None)
        # What the caches of transformers look at: a window that is configured but switched off must not reach them.
        kwargs["sliding_window"] = window
        kwargs["layer_types"] = ["full_attention" if w is None else "sliding_attention" for w in windows]

        # RoPE settings are set afterwards: transformers would complete them by rules of its own.
        super().__init__(**kwargs)
        self.espalier = espalier
        self.num_experts_per_layer = list(num_experts_per_layer)
        self.rope_parameters = rope
        self.attention_windows = windows
        self.top_k_per_layer = top_ks

    @property
    def base_model_type(self):
        return self.espalier["base_model_type"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        # The inherited method warns about every model_type but the class's own; here the prefix carries the base architecture.
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)

    def to_dict(self):
        output = super().to_dict()
        for derived in ("attention_windows", "top_k_per_layer"):
            output.pop(derived, None)
        if getattr(self, "espalier", None) is not None:
            output["model_type"] = PREFIX + self.base_model_type
        return output
