// What the identity of a plan costs: 60 layers of 384 experts with ranks, as large as models are today. One edit, then the hash of the plan
// and what reaches every half of every layer, against canonical JSON of every prefix, which is how version 1 told plans apart.
//
//   plan_bench [REPEATS]
#include "base/sha256.h"
#include "core/shapes.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/plan_history.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

using namespace espalier;

namespace
{

double milliseconds(const std::function<void()>& work)
{
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

void report(const char* what, int repeats, const std::function<void(int)>& work)
{
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i)
        times.push_back(milliseconds([&] { work(i); }));
    std::sort(times.begin(), times.end());
    std::printf("%-66s min %8.3f  median %8.3f  max %8.3f ms\n", what, times.front(), times[times.size() / 2], times.back());
}

}  // namespace

int main(int argc, char** argv)
{
    const int repeats = argc > 1 ? std::atoi(argv[1]) : 25;
    const ModelShape shape = test::evenShape(60, 384, 8);
    CompressionPlan plan = CompressionPlan::identity(shape).withFactors({"svd", ""});
    for (int l = 0; l < 60; ++l)
        plan = *plan.withRanks(shape, l, std::vector<RankTriple>(384, RankTriple{100 + l, 200, 300}));
    const auto edited = [&](int i) {
        ExpertSet kept = plan.layer(i % 60).kept();
        kept.erase(kept.begin() + i % 300);
        return *plan.withKept(shape, i % 60, kept);
    };
    std::size_t used = 0;
    report("one edit", repeats, [&](int i) { used += edited(i).layerCount(); });
    report("one edit, hash of the plan", repeats, [&](int i) { used += edited(i).hash().size(); });
    report("one edit, what reaches every half of every layer", repeats, [&](int i) {
        const CompressionPlan next = edited(i);
        for (int l = 0; l <= 60; ++l)
            used += next.entryDigest(l, CompressionPlan::Half::Attention)[0] + next.entryDigest(l, CompressionPlan::Half::Experts)[0];
    });
    report("canonical JSON of every prefix, hashed (version 1)", std::min(repeats, 3), [&](int i) {
        const Json json = toJson(edited(i));
        Json prefix = {{"version", 1}, {"factors", json["factors"]}, {"layers", Json::array()}};
        for (const Json& layer : json["layers"]) {
            prefix["layers"].push_back(layer);
            used += sha256Hex(canonicalJson(prefix)).size();
        }
    });
    report("sizes of the plan", repeats, [&](int i) { used += static_cast<std::size_t>(planCost(shape, edited(i)).bytes); });
    PlanHistory history(plan, "start", 0);
    for (int i = 0; i < 1000; ++i)
        history.commit(edited(i), "edit", i);
    report("commit to a history of 1,000 plans, hash included", repeats, [&](int i) {
        history.commit(edited(17 * i + 5), "edit", i);
        used += history.current().plan.hash().size();
    });
    return used == 0;
}
