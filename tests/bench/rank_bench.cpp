// What the whitened decomposition of one matrix costs beside SVD-LLM's own step (fp64 Cholesky and inverse, fp32 SVD of W S), on the
// same matrix and second moment, in turn, with two threads. rank_bench [OUT IN [ROUNDS]]; one JSON object.
#include "base/json.h"
#include "lowrank/whitened_svd.h"
#include "plan/model_shape.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

using namespace espalier;

namespace
{

struct Spent {
    std::vector<double> wall, cpu;
};

double cpuSeconds()
{
    timespec time = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

template <typename Work>
auto timed(Spent& spent, Work work)
{
    const auto start = std::chrono::steady_clock::now();
    const double cpu = cpuSeconds();
    auto result = work();
    spent.wall.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    spent.cpu.push_back(cpuSeconds() - cpu);
    return result;
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

Json json(const Spent& spent) { return {{"seconds", median(spent.wall)}, {"cpu_seconds", median(spent.cpu)}}; }

}  // namespace

int main(int argc, char** argv)
{
    const c10::InferenceMode guard;
    const std::int64_t out = argc > 2 ? std::atoll(argv[1]) : 2048;
    const std::int64_t in = argc > 2 ? std::atoll(argv[2]) : 1408;
    const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
    at::set_num_threads(2);
    at::manual_seed(1);
    const at::Tensor w = at::randn({out, in}) * 0.02;
    // A steep spectrum, as activations have: variances fall by six orders of magnitude along a random rotation.
    const at::Tensor scale = at::pow(10.0, -3.0 * at::arange(in, at::kDouble) / static_cast<double>(in));
    const at::Tensor x = at::mm(at::randn({2 * in, in}, at::kDouble) * scale, std::get<0>(at::linalg_qr(at::randn({in, in}, at::kDouble))));
    const at::Tensor moment = at::mm(x.t(), x);

    Spent curve, factors, sliced, reference;
    at::Tensor ours, theirs;
    for (int i = 0; i < rounds; ++i) {
        ours = timed(curve, [&] { return whitenedEnergies(w, moment).value(); });
        const WhitenedSvd svd = timed(factors, [&] { return WhitenedSvd::of(w, moment).value(); });
        // Of every rank that makes the matrix smaller, which are those that a profile keeps.
        const int most = std::min(svd.maxRank(), breakEvenRank(out, in));
        timed(sliced, [&] { return ProjectionFactors::of(w, svd.basis(most).to(at::kFloat)).value().maxRank(); });
        theirs = timed(reference, [&] {
            at::Tensor c = moment.clone();
            c.diagonal().add_(1e-6 * moment.diagonal().mean().item<double>());
            const at::Tensor s = at::linalg_cholesky(c);
            const at::Tensor inverse = at::linalg_inv(s);
            auto [u, sigma, vt] = at::linalg_svd(at::mm(w, s.to(at::kFloat)), false);
            const at::Tensor root = sigma.sqrt();
            const at::Tensor a = u * root;
            const at::Tensor b = at::mm(root.unsqueeze(1) * vt, inverse.to(at::kFloat));
            return sigma.to(at::kDouble).square() + 0 * (a[0][0] + b[0][0]).item<double>();
        });
    }
    // Error of every rank, from singular values in fp64: ours has no ridge, SVD-LLM's one.
    const auto exactOf = [&](double ridge) {
        at::Tensor c = moment.clone();
        c.diagonal().add_(ridge * moment.diagonal().mean().item<double>());
        return at::linalg_svdvals(at::mm(w.to(at::kDouble), at::linalg_cholesky(c))).square();
    };
    const at::Tensor exact = exactOf(0);
    const at::Tensor exactWithRidge = exactOf(1e-6);
    const auto tails = [](const at::Tensor& energies) { return energies.flip({0}).cumsum(0).flip({0}); };
    const auto worst = [&](const at::Tensor& energies, const at::Tensor& expected) {
        const at::Tensor reached = tails(expected);
        return ((tails(energies) - reached).abs() / reached).narrow(0, 0, expected.numel() * 9 / 10).max().item<double>();
    };
    const Json line = {{"item", "ranks"},
                       {"rows", out},
                       {"columns", in},
                       {"curve", json(curve)},
                       {"factors", json(factors)},
                       {"slices", json(sliced)},
                       {"svd_llm_step", json(reference)},
                       {"curve_ratio", median(reference.wall) / median(curve.wall)},
                       {"curve_and_factors_ratio", median(reference.wall) / (median(factors.wall) + median(sliced.wall))},
                       {"curve_error", worst(ours, exact)},
                       {"svd_llm_curve_error", worst(theirs, exactWithRidge)}};
    std::printf("%s\n", line.dump().c_str());
    return 0;
}
