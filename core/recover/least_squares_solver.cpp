#include "recover/least_squares_solver.h"

#include <fmt/format.h>

#include <cmath>

namespace espalier
{

at::Tensor MapRows::scaled() const
{
    const at::Tensor wide = inputs.to(at::kDouble);
    return weights.defined() ? wide * weights.to(at::kDouble).unsqueeze(1) : wide;
}

std::int64_t FittedMap::tokens() const
{
    std::int64_t sum = 0;
    for (const MapRows& part : rows)
        sum += part.count();
    return sum;
}

std::int64_t factoriseBytes(std::int64_t tokens, std::int64_t width)
{
    const std::int64_t side = std::min(tokens, width);
    // The moments and their factor; in the dual all inputs in fp64 besides.
    return 8 * (2 * side * side + (tokens < width ? tokens * width : 0));
}

Status factorise(FittedMap& map, double ridge, Scratch& scratch, FitForm form)
{
    map.factor.reset();
    const std::int64_t tokens = map.tokens();
    if (tokens == 0) return {};
    map.dual = form == FitForm::Auto ? tokens < map.width : form == FitForm::Dual;
    at::Tensor moments;
    double squares = 0;
    if (map.dual) {
        std::vector<at::Tensor> parts;
        for (const MapRows& part : map.rows)
            parts.push_back(part.scaled());
        const at::Tensor all = parts.size() == 1 ? parts.front() : at::cat(parts);
        moments = at::mm(all, all.t());
        squares = moments.trace().item<double>();
    } else {
        moments = at::zeros({map.width, map.width}, at::kDouble);
        for (const MapRows& part : map.rows) {
            const at::Tensor inputs = part.scaled();
            moments.addmm_(inputs.t(), inputs);
        }
        squares = moments.trace().item<double>();
    }
    if (squares == 0) return {};
    map.lambda = ridge * squares / static_cast<double>(map.width);
    moments.diagonal().add_(map.lambda);
    auto [factor, info] = at::linalg_cholesky_ex(moments);
    if (!std::isfinite(squares) || info.item<int>() != 0)
        return badInput("recover.not_definite", "ridge",
                        {"The moments of {tokens} tokens in {width} columns are not positive definite with this ridge.",
                         {{"tokens", tokens}, {"width", map.width}}},
                        "Use a larger ridge.");
    ESPALIER_TRY(map.factor, scratch.keep(factor));
    return {};
}

namespace
{

// One exact step. The map's inputs are converted once for reading and once for taking off.
void step(const FittedMap& map, at::Tensor& residual, at::Tensor& change)
{
    if (map.dual) {
        // D' = (R + G D^T)^T K^-1 G
        std::vector<at::Tensor> inputs, wanted;
        for (const MapRows& part : map.rows) {
            inputs.push_back(part.scaled());
            wanted.push_back(residual.index_select(0, part.tokens).addmm_(inputs.back(), change.t()));
        }
        const at::Tensor solved = at::cholesky_solve(wanted.size() == 1 ? wanted.front() : at::cat(wanted), map.factor);
        at::Tensor next = at::zeros_like(change);
        std::int64_t first = 0;
        for (const at::Tensor& part : inputs) {
            next.addmm_(solved.narrow(0, first, part.size(0)).t(), part);
            first += part.size(0);
        }
        const at::Tensor difference = (next - change).t();
        for (std::size_t i = 0; i < inputs.size(); ++i)
            residual.index_add_(0, map.rows[i].tokens, at::mm(inputs[i], difference), -1);
        change = next;
        return;
    }
    // Delta = (R^T G - lambda D) A^-1
    at::Tensor right = change * -map.lambda;
    for (const MapRows& part : map.rows)
        right.addmm_(residual.index_select(0, part.tokens).t(), part.scaled());
    const at::Tensor difference = at::cholesky_solve(right.t(), map.factor);
    change = change + difference.t();
    for (const MapRows& part : map.rows)
        residual.index_add_(0, part.tokens, at::mm(part.scaled(), difference), -1);
}

}  // namespace

std::vector<SweepLoss> sweep(const std::vector<FittedMap>& maps, int sweeps, at::Tensor& residual, std::vector<at::Tensor>& changes,
                             const std::function<bool()>& stop)
{
    std::vector<SweepLoss> losses;
    for (int i = 0; i < sweeps; ++i) {
        for (std::size_t e = 0; e < maps.size(); ++e) {
            if (!maps[e].factor.defined()) continue;
            if (stop && stop()) return {};
            step(maps[e], residual, changes[e]);
        }
        SweepLoss loss{.squares = residual.square().sum().item<double>()};
        for (std::size_t e = 0; e < maps.size(); ++e)
            if (maps[e].factor.defined()) loss.penalty += maps[e].lambda * changes[e].square().sum().item<double>();
        losses.push_back(loss);
    }
    return losses;
}

}  // namespace espalier
