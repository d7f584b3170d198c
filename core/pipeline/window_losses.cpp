#include "pipeline/window_losses.h"

#include "base/json.h"
#include "model/moe_model.h"

#include <algorithm>
#include <map>
#include <set>

namespace espalier
{

namespace
{

// Losses of all processes, ascending by window.
Result<std::vector<WindowLoss>> gather(const std::vector<WindowLoss>& own, WorkShare& processes)
{
    Json part = Json::array();
    for (const WindowLoss& loss : own)
        part.push_back({loss.window, loss.nll, loss.tokens});
    ESPALIER_TRY(const std::vector<Json> parts, processes.exchange(std::move(part)));
    std::map<int, WindowLoss> all;
    for (const Json& each : parts)
        for (const Json& loss : each)
            all.try_emplace(loss[0].get<int>(), WindowLoss{loss[0].get<int>(), loss[1].get<double>(), loss[2].get<int>()});
    std::vector<WindowLoss> losses;
    losses.reserve(all.size());
    for (const auto& [window, loss] : all)
        losses.push_back(loss);
    return losses;
}

}  // namespace

std::int64_t evaluatorCacheBytes(const MoeModel& model)
{
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    constexpr std::int64_t kLeast = std::int64_t{256} << 20;
    return std::min({model.spareBytes() / 2, kMost, std::max(kLeast, 2 * model.shape().bytes())});
}

Result<std::vector<WindowLoss>> measureOnce(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan, JobContext& job)
{
    Evaluator evaluator(model, windows, 0);
    return evaluator.run(plan, firstWindows(evaluator.windowCount()), {}, job);
}

Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, const std::vector<WindowLoss>& known,
                                          JobContext& job, WorkShare& processes)
{
    return runShared(evaluator, plan, firstWindows(evaluator.windowCount()), known, job, processes);
}

Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, std::span<const int> windows,
                                          const std::vector<WindowLoss>& known, JobContext& job, WorkShare& processes)
{
    if (processes.alone()) return evaluator.run(plan, windows, known, job);
    ESPALIER_TRY(const std::vector<WindowLoss> earlier, gather(known, processes));
    const std::set<int> wanted(windows.begin(), windows.end());
    std::vector<int> own;
    std::size_t index = 0;
    for (const std::vector<int>& group : evaluator.groups())
        if (processes.owns(index++))
            for (const int window : group)
                if (wanted.contains(window)) own.push_back(window);
    ESPALIER_TRY(const std::vector<WindowLoss> losses, evaluator.run(plan, own, earlier, job));
    ESPALIER_TRY(const std::vector<WindowLoss> all, gather(losses, processes));
    std::map<int, WindowLoss> byWindow;
    for (const WindowLoss& loss : all)
        byWindow[loss.window] = loss;
    std::vector<WindowLoss> result;
    for (const int window : windows)
        result.push_back(byWindow.at(window));
    return result;
}

Result<std::vector<WindowDivergence>> divergenceShared(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                                       const CompressionPlan& reference, JobContext& job, WorkShare& processes)
{
    ESPALIER_TRY(std::vector<WindowDivergence> found, measureDivergence(model, windows, plan, reference, job, processes));
    if (processes.alone()) return found;
    Json own = Json::array();
    for (const WindowDivergence& window : found)
        own.push_back({window.window, window.kl, window.esap, window.agreement, window.tokens});
    ESPALIER_TRY(const std::vector<Json> parts, processes.exchange(std::move(own)));
    found.clear();
    for (const Json& part : parts)
        for (const Json& window : part)
            found.push_back(
                {window[0].get<int>(), window[1].get<double>(), window[2].get<double>(), window[3].get<double>(), window[4].get<int>()});
    std::sort(found.begin(), found.end(), [](const WindowDivergence& a, const WindowDivergence& b) { return a.window < b.window; });
    return found;
}

}  // namespace espalier
