# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the Espalier authors
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with the License.
# You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to
# in writing, software distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND.
#
# Why not the licence of Espalier itself: see configuration_espalier.py.
"""Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE and DeepSeek-V2 with any number of experts per layer, factored expert
matrices, constants in place of experts, and experts that share their weights.

Self-contained: of transformers only the base classes, the caches and `generate` are used, so that it does not depend on how a release
of transformers stores experts. Parameter names are those of the files. Orders and number types follow the eager code of transformers 5:
softmax of the router in fp32, experts in ascending order, their outputs added up in the type of the model.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_espalier import LATENT_BASES, EspalierConfig, require


# ---------------------------------------------------------------------------------------------------------------- small parts
class EspalierRMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class EspalierFactoredLinear(nn.Module):
    """y = U (V x) + b, U [out, rank], V [rank, in], b [out] or nothing: a linear map in two steps."""

    def __init__(self, inputs, outputs, rank, bias=False):
        super().__init__()
        self.in_features, self.out_features, self.rank = inputs, outputs, rank
        self.U = nn.Parameter(torch.empty(outputs, rank))
        self.V = nn.Parameter(torch.empty(rank, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x):
        return F.linear(F.linear(x, self.V), self.U, self.bias)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def make_linear(inputs, outputs, form, bias=False):
    """form: {"rank": 0 = a whole matrix, "bias": of factors}; bias: the family's, which a whole matrix has beside it."""
    if form["rank"]:
        return EspalierFactoredLinear(inputs, outputs, form["rank"], form["bias"])
    return nn.Linear(inputs, outputs, bias=bias)


def linear_maker(config, layer, path):
    """Makes the linear maps beside the experts of a layer, under `path` there: whole, or factors where the export holds them."""
    told = (config.espalier.get("linears") or [{}] * config.num_hidden_layers)[layer]
    whole = {"rank": 0, "bias": False}
    return lambda name, inputs, outputs, bias=False: make_linear(inputs, outputs, told.get(f"{path}.{name}", whole), bias)


def expert_width(config):
    return config.intermediate_size if config.base_model_type in ("mixtral", "olmoe") else config.moe_intermediate_size


def layer_bodies(config, layer):
    """What stands behind each expert number of a layer: {"owner", "constant", "width", "forms": of gate, up, down}."""
    told = config.espalier

    def of(key):
        return (told.get(key) or [[]] * config.num_hidden_layers)[layer]

    experts = config.num_experts_per_layer[layer]
    ranks, owners = of("ranks") or [[0, 0, 0]] * experts, of("bodies") or list(range(experts))
    constants, biases = set(of("constants")), {tuple(pair) for pair in of("biases")}
    widths = of("widths") or [expert_width(config)] * experts
    return [
        {
            "owner": owners[expert],
            "constant": expert in constants,
            "width": widths[expert],
            "forms": [{"rank": ranks[expert][m], "bias": (expert, m) in biases} for m in range(3)],
        }
        for expert in range(experts)
    ]


class EspalierMLP(nn.Module):
    def __init__(self, config, width, layer, path):
        super().__init__()
        bias = bool(getattr(config, "mlp_bias", False))
        linear = linear_maker(config, layer, path)
        self.gate_proj = linear("gate_proj", config.hidden_size, width, bias)
        self.up_proj = linear("up_proj", config.hidden_size, width, bias)
        self.down_proj = linear("down_proj", width, config.hidden_size, bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class EspalierExpert(nn.Module):
    def __init__(self, config, width, forms):
        super().__init__()
        self.gate_proj = make_linear(config.hidden_size, width, forms[0])
        self.up_proj = make_linear(config.hidden_size, width, forms[1])
        self.down_proj = make_linear(width, config.hidden_size, forms[2])
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class EspalierConstant(nn.Module):
    """In place of an expert: the same vector for every token."""

    def __init__(self, config):
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, x):
        return self.constant.expand(x.shape[0], -1)


class EspalierMixtralExpert(nn.Module):
    def __init__(self, config, width, forms):
        super().__init__()
        self.w1 = make_linear(config.hidden_size, width, forms[0])  # gate
        self.w3 = make_linear(config.hidden_size, width, forms[1])  # up
        self.w2 = make_linear(width, config.hidden_size, forms[2])  # down
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.w2(self.act_fn(self.w1(x)) * self.w3(x))


def make_body(config, body):
    if body["constant"]:
        return EspalierConstant(config)
    expert = EspalierMixtralExpert if config.base_model_type == "mixtral" else EspalierExpert
    return expert(config, body["width"], body["forms"])


# ------------------------------------------------------------------------------------------------------------- position encoding
def yarn_gain(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rotary_frequencies(config, dim):
    """Inverse frequencies (fp32, [dim / 2]) and the factor of cosine and sine."""
    rope = config.rope_parameters
    theta = float(rope["rope_theta"])
    inverse = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float32) / dim))
    if rope["rope_type"] == "default":
        return inverse, 1.0
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    factor = rope.get("factor") or config.max_position_embeddings / original
    fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1

    def correction(turns):
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = correction(fast), correction(slow)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    inverse = ramp * (inverse / factor) + (1 - ramp) * inverse
    gain = rope.get("attention_factor")
    if gain is None:
        mscale, mscale_all = rope.get("mscale"), rope.get("mscale_all_dim")
        if mscale and mscale_all:
            gain = yarn_gain(factor, mscale) / yarn_gain(factor, mscale_all)
        else:
            gain = yarn_gain(factor, 1)
    return inverse, float(gain)


def rotate_half_split(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_adjacent_pairs(x, turns):
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


# -------------------------------------------------------------------------------------------------------------------- attention
class AttentionMasks:
    """Causal masks of one forward pass, by number of keys and window. Built from cache slots, so they also fit caches that forget.

    `attention_mask`: [batch, keys] with 0 for padding, or None.
    """

    def __init__(self, past, queries, attention_mask, dtype, device):
        self.past, self.queries, self.dtype, self.device = past, queries, dtype, device
        total = past + queries
        if attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError("`attention_mask` must have the shape [batch, tokens].")
            if attention_mask.shape[1] != total:
                raise ValueError(f"`attention_mask` covers {attention_mask.shape[1]} tokens, cache and input hold {total}.")
            attention_mask = attention_mask.to(torch.bool)
            if bool(attention_mask.all()):
                attention_mask = None
        self.padding = attention_mask
        self.made = {}

    def get(self, keys, window, device):
        """Additive mask [batch or 1, 1, queries, keys], or None where every query sees every key."""
        total = self.past + self.queries
        if keys > total:
            raise ValueError("Caches of a fixed size are not supported; use the default (dynamic) cache.")
        if self.padding is None and self.queries == 1 and (window is None or keys <= window):
            return None
        key = (keys, window, device)
        if key not in self.made:
            query_slot = torch.arange(self.past, total, device=device)[:, None]
            key_slot = torch.arange(total - keys, total, device=device)[None, :]
            visible = key_slot <= query_slot
            if window is not None:
                visible = visible & (key_slot > query_slot - window)
            visible = visible[None, None]
            if self.padding is not None:
                visible = visible & self.padding[:, None, None, total - keys :].to(device)
            # The smallest finite number, not -inf: a row that sees nothing (left padding) then stays finite.
            mask = torch.zeros(visible.shape, dtype=self.dtype, device=device)
            self.made[key] = mask.masked_fill(~visible, torch.finfo(self.dtype).min)
        return self.made[key]


def attend(query, key, value, masks, window, scaling, implementation):
    """[batch, heads, queries, dim] x [batch, kv heads, keys, dim] -> [batch, queries, heads * value dim]."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    mask = masks.get(key.shape[2], window, query.device)
    if implementation == "eager":
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling
        if mask is not None:
            scores = scores + mask
        scores = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        output = torch.matmul(scores, value)
    else:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2).reshape(output.shape[0], output.shape[2], -1)


class EspalierAttention(nn.Module):
    """Multi-head attention with shared key-value heads, half-split RoPE and the options of Mixtral, Qwen2, Qwen3 and OLMoE."""

    def __init__(self, config, layer):
        super().__init__()
        base = config.base_model_type
        hidden, heads = config.hidden_size, config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        self.layer, self.heads, self.kv_heads = layer, heads, kv_heads
        self.head_dim = getattr(config, "head_dim", None) or hidden // heads
        self.scaling = self.head_dim**-0.5
        self.window = config.attention_windows[layer]
        self.clip = getattr(config, "clip_qkv", None) if base == "olmoe" else None
        attention_bias = bool(getattr(config, "attention_bias", False)) and base in ("qwen3_moe", "olmoe")
        qkv_bias = bool(getattr(config, "qkv_bias", True)) if base == "qwen2_moe" else attention_bias
        linear = linear_maker(config, layer, "self_attn")
        self.q_proj = linear("q_proj", hidden, heads * self.head_dim, qkv_bias)
        self.k_proj = linear("k_proj", hidden, kv_heads * self.head_dim, qkv_bias)
        self.v_proj = linear("v_proj", hidden, kv_heads * self.head_dim, qkv_bias)
        self.o_proj = linear("o_proj", heads * self.head_dim, hidden, attention_bias)
        self.norm = None
        if base == "olmoe":
            self.norm = "whole"
            self.q_norm = EspalierRMSNorm(heads * self.head_dim, config.rms_norm_eps)
            self.k_norm = EspalierRMSNorm(kv_heads * self.head_dim, config.rms_norm_eps)
        elif base == "qwen3_moe":
            self.norm = "head"
            self.q_norm = EspalierRMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = EspalierRMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x, rotary, masks, cache, implementation):
        batch, length, _ = x.shape
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.norm == "whole":
            query, key = self.q_norm(query), self.k_norm(key)
        if self.clip is not None:
            query, key, value = (t.clamp(-self.clip, self.clip) for t in (query, key, value))
        query = query.view(batch, length, self.heads, self.head_dim)
        key = key.view(batch, length, self.kv_heads, self.head_dim)
        value = value.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        cos, sin = (t.to(x.device)[:, None] for t in rotary)
        query = rotate_half_split(query.transpose(1, 2), cos, sin)
        key = rotate_half_split(key.transpose(1, 2), cos, sin)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        return self.o_proj(attend(query, key, value, masks, self.window, self.scaling, implementation))


class EspalierLatentAttention(nn.Module):
    """Attention of DeepSeek-V2 and V3: keys and values come from one latent vector per token, which is what the cache holds."""

    def __init__(self, config, layer):
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        bias = bool(getattr(config, "attention_bias", False))
        self.layer, self.heads = layer, heads
        self.nope = require(config.__dict__, "qk_nope_head_dim", config.base_model_type)
        self.rope = require(config.__dict__, "qk_rope_head_dim", config.base_model_type)
        self.value_dim = require(config.__dict__, "v_head_dim", config.base_model_type)
        self.latent = require(config.__dict__, "kv_lora_rank", config.base_model_type)
        width = self.nope + self.rope
        self.scaling = width**-0.5
        rope = config.rope_parameters
        if rope["rope_type"] != "default" and rope.get("mscale_all_dim"):
            self.scaling *= yarn_gain(rope["factor"], rope["mscale_all_dim"]) ** 2
        linear = linear_maker(config, layer, "self_attn")
        # The norms of the latent vectors have their own epsilon.
        self.q_lora_rank = getattr(config, "q_lora_rank", None)
        if self.q_lora_rank is None:
            self.q_proj = linear("q_proj", hidden, heads * width)
        else:
            self.q_a_proj = linear("q_a_proj", hidden, self.q_lora_rank, bias)
            self.q_a_layernorm = EspalierRMSNorm(self.q_lora_rank, 1e-6)
            self.q_b_proj = linear("q_b_proj", self.q_lora_rank, heads * width)
        self.kv_a_proj_with_mqa = linear("kv_a_proj_with_mqa", hidden, self.latent + self.rope, bias)
        self.kv_a_layernorm = EspalierRMSNorm(self.latent, 1e-6)
        self.kv_b_proj = linear("kv_b_proj", self.latent, heads * (self.nope + self.value_dim))
        self.o_proj = linear("o_proj", heads * self.value_dim, hidden, bias)

    def forward(self, x, rotary, masks, cache, implementation):
        batch, length, _ = x.shape
        query = self.q_proj(x) if self.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        query = query.view(batch, length, self.heads, -1).transpose(1, 2)
        query_nope, query_rope = query.split([self.nope, self.rope], dim=-1)
        latent, key_rope = self.kv_a_proj_with_mqa(x).split([self.latent, self.rope], dim=-1)
        latent = self.kv_a_layernorm(latent)[:, None]  # as one head, the shape every cache understands
        turns = rotary.to(x.device)[:, None]
        query_rope = rotate_adjacent_pairs(query_rope, turns)
        key_rope = rotate_adjacent_pairs(key_rope[:, None], turns)
        if cache is not None:
            latent, key_rope = cache.update(latent, key_rope, self.layer)
        expanded = self.kv_b_proj(latent[:, 0]).view(batch, -1, self.heads, self.nope + self.value_dim).transpose(1, 2)
        key_nope, value = expanded.split([self.nope, self.value_dim], dim=-1)
        query = torch.cat((query_nope, query_rope), dim=-1)
        key = torch.cat((key_nope, key_rope.expand(-1, self.heads, -1, -1)), dim=-1)
        return self.o_proj(attend(query, key, value, masks, None, self.scaling, implementation))


# ------------------------------------------------------------------------------------------------------------ mixture of experts
class EspalierRouter(nn.Linear):
    """Picks k of this layer's experts. Returns weights [tokens, k] and expert ids [tokens, k]."""

    def __init__(self, config, experts, top_k, skip):
        super().__init__(config.hidden_size, experts, bias=False)
        base = config.base_model_type
        self.base, self.experts, self.top_k = base, experts, top_k
        self.normalise = base == "mixtral" or (base != "deepseek_v2" and bool(getattr(config, "norm_topk_prob", base == "deepseek_v3")))
        self.groups = 1
        if base == "deepseek_v2":
            self.scale = float(require(config.__dict__, "routed_scaling_factor", base))
            method = getattr(config, "topk_method", "greedy")
            if method == "group_limited_greedy":
                self.groups, self.kept_groups = config.n_group, config.topk_group
                if experts % self.groups:
                    raise ValueError(f"{experts} experts do not divide into {self.groups} groups.")
            elif method != "greedy":
                raise ValueError(f"topk_method {method!r} is not supported.")
        elif base == "deepseek_v3":
            self.scale = float(require(config.__dict__, "routed_scaling_factor", base))
            if getattr(config, "scoring_func", "sigmoid") != "sigmoid" or getattr(config, "topk_method", "noaux_tc") != "noaux_tc":
                raise ValueError("Only a sigmoid router that selects by score and bias (noaux_tc) is supported.")
            self.groups, self.kept_groups = require(config.__dict__, "n_group", base), require(config.__dict__, "topk_group", base)
            if experts % self.groups or experts // self.groups < 2:
                raise ValueError(f"{experts} experts do not divide into {self.groups} groups of two or more.")
            self.register_buffer("e_score_correction_bias", torch.zeros(experts, dtype=torch.float32))

        # Tokens skip chosen experts (arXiv 2402.14800): of a score below a share of their largest one, or behind a cumulative share.
        self.skip = skip

    def skipped(self, scores):
        """Of the chosen, by the scores their weights are made of."""
        wide = scores.double()
        share = self.skip["threshold_millionths"] / 1e6
        if self.skip["rule"] == "ratio":
            return wide < share * wide.max(dim=-1, keepdim=True).values
        ordered, order = wide.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        gone = before >= share * ordered.sum(dim=-1, keepdim=True)
        gone[..., 0] = False
        return torch.zeros_like(gone).scatter_(-1, order, gone)

    def kept(self, scores, ids):
        """Scores and ids of the chosen, 0 and -1 of those that are skipped."""
        if self.skip is None:
            return scores, ids
        gone = self.skipped(scores)
        return scores.masked_fill(gone, 0.0), ids.masked_fill(gone, -1)

    def biased(self, x):
        """DeepSeek-V3: the two best of score + bias judge a group; the bias selects, it does not weigh."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choice = scores + self.e_score_correction_bias.float()
        if self.kept_groups < self.groups:
            size = self.experts // self.groups
            best = choice.view(-1, self.groups, size).topk(2, dim=-1).values.sum(dim=-1)
            chosen = torch.zeros_like(best).scatter_(1, best.topk(self.kept_groups, dim=-1).indices, 1.0)
            choice = choice.masked_fill(chosen.repeat_interleave(size, dim=-1) == 0, float("-inf"))
        ids = choice.topk(self.top_k, dim=-1).indices
        weights, ids = self.kept(scores.gather(1, ids), ids)
        if self.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * self.scale, ids

    def forward(self, x):
        if self.base == "deepseek_v3":
            return self.biased(x)
        if self.base == "deepseek_v2":
            logits = F.linear(x.float(), self.weight.float())
        else:
            logits = F.linear(x, self.weight)
        scores = F.softmax(logits, dim=-1, dtype=torch.float32)
        if self.groups > 1:
            best = scores.view(-1, self.groups, self.experts // self.groups).max(dim=-1).values
            chosen = torch.zeros_like(best).scatter_(1, best.topk(self.kept_groups, dim=-1).indices, 1.0)
            scores = scores * chosen.repeat_interleave(self.experts // self.groups, dim=-1)
        weights, ids = self.kept(*scores.topk(self.top_k, dim=-1))
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.base == "deepseek_v2":
            return weights * self.scale, ids
        return (weights if self.base == "mixtral" else weights.to(logits.dtype)), ids


class EspalierMoe(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        base = config.base_model_type
        experts = config.num_experts_per_layer[layer]
        skip = (config.espalier.get("skip") or [None] * config.num_hidden_layers)[layer]
        self.gate = EspalierRouter(config, experts, config.top_k_per_layer[layer], skip)
        bodies = layer_bodies(config, layer)
        # By number of the expert under which the weights lie in the files.
        self.experts = nn.ModuleDict(
            {str(expert): make_body(config, body) for expert, body in enumerate(bodies) if body["owner"] == expert}
        )
        self.owners = [body["owner"] for body in bodies] if len(self.experts) < experts else None
        self.shared = None
        if base == "qwen2_moe":
            self.shared = "gated"
            self.shared_expert = EspalierMLP(config, config.shared_expert_intermediate_size, layer, "mlp.shared_expert")
            self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)
        elif base in LATENT_BASES and getattr(config, "n_shared_experts", None):
            self.shared = "plain"
            width = config.moe_intermediate_size * config.n_shared_experts
            self.shared_experts = EspalierMLP(config, width, layer, "mlp.shared_experts")

    def forward(self, hidden):
        x = hidden.reshape(-1, hidden.shape[-1])
        weights, ids = self.gate(x)
        if self.owners is not None:
            ids = torch.tensor([*self.owners, -1], device=ids.device)[ids]
        output = torch.zeros_like(x)
        for expert in ids.unique().tolist():  # ascending
            if expert < 0:
                continue  # skipped
            chosen = ids == expert
            if self.owners is None:
                token, slot = torch.where(chosen)
                weight = weights[token, slot, None]
            else:  # a token that gets there by several numbers is computed once
                token = torch.where(chosen.any(dim=-1))[0]
                weight = (weights * chosen).sum(dim=-1, keepdim=True)[token]
            part = self.experts[str(expert)](x[token]) * weight
            output.index_add_(0, token, part.to(output.dtype))
        if self.shared == "gated":
            output = output + torch.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)
        elif self.shared == "plain":
            output = output + self.shared_experts(x)
        return output.view_as(hidden)


# ------------------------------------------------------------------------------------------------------------------------ model
class EspalierDecoderLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        latent = config.base_model_type in LATENT_BASES
        self.self_attn = EspalierLatentAttention(config, layer) if latent else EspalierAttention(config, layer)
        if config.num_experts_per_layer[layer] == 0:
            mlp = EspalierMLP(config, config.intermediate_size, layer, "mlp")
        else:
            mlp = EspalierMoe(config, layer)
        self.mlp_name = "block_sparse_moe" if config.base_model_type == "mixtral" else "mlp"
        self.add_module(self.mlp_name, mlp)
        self.input_layernorm = EspalierRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = EspalierRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden, rotary, masks, past_key_values, implementation):
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, masks, past_key_values, implementation)
        return hidden + getattr(self, self.mlp_name)(self.post_attention_layernorm(hidden))


class EspalierPreTrainedModel(PreTrainedModel):
    config_class = EspalierConfig
    base_model_prefix = "model"
    _no_split_modules = ["EspalierDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_cache_class = True
    _supports_static_cache = False
    _can_compile_fullgraph = False
    _keep_in_fp32_modules_strict = {"e_score_correction_bias"}

    @torch.no_grad()
    def _init_weights(self, module):
        deviation = getattr(self.config, "initializer_range", None) or 0.02
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(0.0, deviation)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        elif isinstance(module, EspalierRMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, EspalierConstant):
            module.constant.zero_()
        elif isinstance(module, EspalierFactoredLinear):
            module.U.normal_(0.0, deviation)
            module.V.normal_(0.0, deviation)
            if module.bias is not None:
                module.bias.zero_()


class EspalierModel(EspalierPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        if getattr(config, "espalier", None) is None:
            raise ValueError("This configuration does not describe an Espalier export: `espalier` is missing.")
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, getattr(config, "pad_token_id", None))
        self.layers = nn.ModuleList([EspalierDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = EspalierRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def rotary(self, position_ids, dtype):
        config = self.config
        latent = config.base_model_type in LATENT_BASES
        if latent:
            dim = config.qk_rope_head_dim
        else:
            dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Computed anew: a buffer would be lost when the model is built without memory and filled from files.
        with torch.device("cpu"):
            inverse, gain = rotary_frequencies(config, dim)
        angles = position_ids[..., None].to(torch.float32) * inverse.to(position_ids.device)
        if latent:
            return torch.polar(torch.ones_like(angles), angles) * gain
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * gain).to(dtype), (angles.sin() * gain).to(dtype)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=False,
        **kwargs,
    ):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)[None]
        rotary = self.rotary(position_ids, inputs_embeds.dtype)
        masks = AttentionMasks(past, length, attention_mask, inputs_embeds.dtype, inputs_embeds.device)
        implementation = self.config._attn_implementation or "sdpa"
        hidden = inputs_embeds
        states = (hidden,) if output_hidden_states else None
        for layer in self.layers:
            hidden = layer(hidden, rotary, masks, past_key_values=past_key_values, implementation=implementation)
            if output_hidden_states:
                states += (hidden,)
        hidden = self.norm(hidden)
        if output_hidden_states:
            states = states[:-1] + (hidden,)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden, past_key_values=past_key_values if use_cache else None, hidden_states=states
        )


class EspalierForCausalLM(EspalierPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = EspalierModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        **kwargs,
    ):
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=bool(output_hidden_states),
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, int):
            hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        else:
            hidden = hidden[:, logits_to_keep]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
            loss = F.cross_entropy(flat, labels[:, 1:].reshape(-1).to(flat.device), ignore_index=-100)
        result = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
        return result.to_tuple() if return_dict is False else result
