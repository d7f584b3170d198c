#include "search/plan_race.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

MeasuredPlans::MeasuredPlans(std::vector<std::vector<int>> groups, Measure measure)
    : m_groups(std::move(groups)), m_measure(std::move(measure)), m_prefixes(m_groups.size())
{
    m_windows = windowsIn(this->groups());
}

int MeasuredPlans::windowsIn(int groups) const
{
    int sum = 0;
    for (int g = 0; g < std::min(groups, this->groups()); ++g)
        sum += static_cast<int>(m_groups[static_cast<std::size_t>(g)].size());
    return sum;
}

int MeasuredPlans::groupsFor(int windows) const
{
    int count = 0;
    while (count < groups() && windowsIn(count) < windows)
        ++count;
    return count;
}

Status MeasuredPlans::measure(const CompressionPlan& plan, int groups)
{
    const std::string& hash = plan.hash();
    for (int g = known(hash); g < std::min(groups, this->groups()); ++g) {
        const std::vector<int>& windows = m_groups[static_cast<std::size_t>(g)];
        ESPALIER_TRY(std::vector<WindowLoss> losses, m_measure(plan, windows));
        std::vector<WindowLoss>& all = m_losses[hash];
        all.insert(all.end(), losses.begin(), losses.end());
        m_known[hash] = g + 1;
        // The stream that enters a layer depends on the layers below it alone.
        std::set<std::string>& prefixes = m_prefixes[static_cast<std::size_t>(g)];
        const int layers = plan.layerCount();
        int first = 0;
        for (int l = 0; l < layers; ++l)
            if (!prefixes.insert(hexOf(plan.entryDigest(l, CompressionPlan::Half::Attention))).second) first = l;
        m_passes += static_cast<double>(layers - first) / layers * static_cast<double>(windows.size()) / m_windows;
    }
    return {};
}

int MeasuredPlans::known(const std::string& planHash) const
{
    const auto it = m_known.find(planHash);
    return it == m_known.end() ? 0 : it->second;
}

const std::vector<WindowLoss>& MeasuredPlans::losses(const std::string& planHash) const
{
    static const std::vector<WindowLoss> none;
    const auto it = m_losses.find(planHash);
    return it == m_losses.end() ? none : it->second;
}

namespace
{

class Race
{
public:
    Race(MeasuredPlans& measured, std::span<const CompressionPlan> entrants, const CompressionPlan* incumbent, const RaceRules& rules,
         const std::function<bool()>& stop, const RaceLeft& left)
        : m_measured(measured), m_entrants(entrants), m_incumbent(incumbent), m_rules(rules), m_stop(stop), m_left(left)
    {
        for (std::size_t i = 0; i < entrants.size(); ++i)
            m_in.push_back(i);
    }

    Result<RaceResult> run()
    {
        RaceResult result;
        for (int target = 1; !m_in.empty(); target = next(target)) {
            ESPALIER_TRY(const bool complete, measureAll(target));
            result.stopped = !complete;
            if (!complete || target == m_measured.groups()) {
                result.winner = complete ? bestFinished() : bestUnfinished();
                finish(result.winner);
                return result;
            }
            if (m_measured.windowsIn(target) >= m_rules.leastWindows) dropOut(target);
        }
        return result;
    }

private:
    int next(int target) const { return std::min(m_measured.groups(), std::max(target + 1, target * 2)); }
    const std::string& hash(std::size_t entrant) const { return m_entrants[entrant].hash(); }
    PairedDifference between(const std::string& plan, const std::string& other) const
    {
        return pairedDifference(m_measured.losses(plan), m_measured.losses(other));
    }

    // Window by window over everybody who is in, so that what they share below their first difference is still at hand.
    Result<bool> measureAll(int target)
    {
        for (int g = 1; g <= target; ++g) {
            if (m_incumbent) {
                ESPALIER_TRY(const bool measured, measure(*m_incumbent, g));
                if (!measured) return false;
            }
            for (const std::size_t entrant : m_in) {
                ESPALIER_TRY(const bool measured, measure(m_entrants[entrant], g));
                if (!measured) return false;
            }
        }
        return true;
    }

    Result<bool> measure(const CompressionPlan& plan, int groups)
    {
        if (m_measured.known(plan.hash()) >= groups) return true;
        if (m_stop && m_stop()) return false;
        const Status done = m_measured.measure(plan, groups);
        if (done.ok()) return true;
        if (done.error().kind == ErrorKind::Cancelled) return false;
        return done.error();
    }

    // Against whom the others are judged. Everybody has the same windows here.
    std::string leader() const
    {
        if (m_incumbent) return m_incumbent->hash();
        std::size_t best = m_in.front();
        for (const std::size_t entrant : m_in)
            if (between(hash(entrant), hash(best)).nll < 0) best = entrant;
        return hash(best);
    }

    void dropOut(int target)
    {
        const std::string ahead = leader();
        const bool half = 2 * target >= m_measured.groups();
        std::vector<std::pair<double, std::size_t>> order;
        for (const std::size_t entrant : m_in) {
            const PairedDifference difference = between(hash(entrant), ahead);
            const bool behind = hash(entrant) != ahead && difference.nll > m_rules.reject * difference.se;
            if (behind || (m_incumbent && m_rules.cautious && half && difference.nll >= 0))
                tell(entrant, ahead, false);
            else
                order.emplace_back(difference.nll, entrant);
        }
        std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        const std::size_t stay = m_rules.halve ? (order.size() + 1) / 2 : order.size();
        for (std::size_t i = stay; i < order.size(); ++i)
            tell(order[i].second, ahead, false);
        order.resize(stay);
        m_in.clear();
        for (const auto& [nll, entrant] : order)
            m_in.push_back(entrant);
        std::sort(m_in.begin(), m_in.end());
    }

    void tell(std::size_t entrant, const std::string& ahead, bool won) const
    {
        if (m_left && m_measured.known(hash(entrant)) > 0) m_left(entrant, ahead, won);
    }

    void finish(int winner) const
    {
        const std::string ahead = m_incumbent ? m_incumbent->hash() : winner >= 0 ? hash(static_cast<std::size_t>(winner)) : std::string();
        for (const std::size_t entrant : m_in)
            if (static_cast<int>(entrant) != winner) tell(entrant, ahead, false);
        if (winner >= 0) tell(static_cast<std::size_t>(winner), ahead, true);
    }

    int bestFinished()
    {
        const std::string ahead = leader();
        int best = -1;
        double lowest = 0;
        for (const std::size_t entrant : m_in) {
            const PairedDifference difference = between(hash(entrant), ahead);
            const bool gains = m_rules.anyGain ? difference.nll < 0 : -difference.nll > 2 * difference.se;
            if (m_incumbent ? gains && (best < 0 || difference.nll < lowest) : best < 0 || difference.nll < lowest) {
                best = static_cast<int>(entrant);
                lowest = difference.nll;
            }
        }
        return best;
    }

    // By the windows that all of them have; a partly measured plan takes the incumbent's place only where the difference is clear.
    int bestUnfinished()
    {
        int best = -1;
        double lowest = 0;
        const CompressionPlan* ahead = m_incumbent;
        for (const std::size_t entrant : m_in) {
            if (m_measured.losses(hash(entrant)).empty()) continue;
            if (!ahead) {
                ahead = &m_entrants[entrant];
                best = static_cast<int>(entrant);
                continue;
            }
            const PairedDifference difference = between(hash(entrant), ahead->hash());
            const bool gains = m_incumbent ? difference.windows >= m_rules.leastWindows && -difference.nll > 2 * difference.se
                                           : difference.windows > 0 && difference.nll < 0;
            if (gains && difference.nll < lowest) {
                best = static_cast<int>(entrant);
                lowest = difference.nll;
            }
        }
        return best;
    }

    MeasuredPlans& m_measured;
    std::span<const CompressionPlan> m_entrants;
    const CompressionPlan* m_incumbent;
    const RaceRules& m_rules;
    const std::function<bool()>& m_stop;
    const RaceLeft& m_left;
    std::vector<std::size_t> m_in;
};

}  // namespace

Result<RaceResult> race(MeasuredPlans& measured, std::span<const CompressionPlan> entrants, const CompressionPlan* incumbent,
                        const RaceRules& rules, const std::function<bool()>& stop, const RaceLeft& left)
{
    if (measured.groups() == 0)
        return badInput("search.no_windows", "windows", "There are no windows to measure plans on.",
                        "Give a text with at least one window.");
    return Race(measured, entrants, incumbent, rules, stop, left).run();
}

}  // namespace espalier
