// What is minimised at the output, and its gradient: the negative log-likelihood of the tokens that count, or the divergence from what a
// teacher said about them. fp32 products, sums in fp64; rows come in blocks, so that memory does not grow with their number.
#pragma once

#include "model/layer_weights.h"
#include "recover/teacher_cache.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

// Rows of a batch that are scored: what stands at them is predicted from the row.
struct ScoredRows {
    at::Tensor rows;     // [M] int64 of the N = B * T rows
    at::Tensor targets;  // [M] int64
};

struct LossSum {
    double sum = 0;       // over the rows
    at::Tensor gradient;  // [M,H] fp32 of normed rows, times `weight`; undefined where it was not asked for
};

// sum of -log softmax(head row)[target]; the gradient is that of weight * sum. normed [M,H] where the model computes, targets likewise.
LossSum nllLoss(const at::Tensor& normed, const at::Tensor& targets, const GlobalWeights& globals, double weight, bool wantGradient);

// tau^2 * sum KL(teacher || student), both at temperature tau, over the teacher's most likely tokens and the rest as one
// (Router-KD, arXiv 2603.02217): a lower bound of the divergence over all tokens. `teacher` has a row for each of `normed`.
LossSum divergenceLoss(const at::Tensor& normed, const TeacherRows& teacher, double temperature, const GlobalWeights& globals,
                       double weight, bool wantGradient);

}  // namespace espalier
