// Races between plans: every plan still in is measured on one group of windows more, those that are behind the leader by more than the
// error of the paired difference drop out, and of the rest the worse half (successive halving: Jamieson and Talwalkar, AISTATS 2016;
// dropping by the error: Maron and Moore, NIPS 1993). Most plans are told apart by a few windows.
//
// Runs no model: measuring is a callback. One thread, deterministic.
#pragma once

#include "base/error.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// What is known of every plan, and what it took. Windows are in groups that are measured together, always in the order given, so what is
// known of a plan are its first groups.
class MeasuredPlans
{
public:
    // Losses of these windows under a plan. A stop: error cancelled.
    using Measure = std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&, std::span<const int> windows)>;

    MeasuredPlans(std::vector<std::vector<int>> groups, Measure measure);

    int groups() const { return static_cast<int>(m_groups.size()); }
    int windowsIn(int groups) const;  // of the first so many
    // As few groups as hold so many windows; all where there are not so many.
    int groupsFor(int windows) const;

    // Measures the first `groups` groups that are not known yet.
    Status measure(const CompressionPlan& plan, int groups);
    int known(const std::string& planHash) const;  // groups
    // Windows measured so far, in the order of the groups. Empty for a plan that was never measured.
    const std::vector<WindowLoss>& losses(const std::string& planHash) const;
    int plans() const { return static_cast<int>(m_losses.size()); }

    // Full passes of the model over all windows that the measurements are worth, when what lies below the first layer in which a plan
    // differs from an earlier one on the same windows need not run again.
    double passes() const { return m_passes; }

private:
    std::vector<std::vector<int>> m_groups;
    Measure m_measure;
    int m_windows = 0;
    std::map<std::string, std::vector<WindowLoss>> m_losses;
    std::map<std::string, int> m_known;
    std::vector<std::set<std::string>> m_prefixes;  // of each group: what was computed up to which layer
    double m_passes = 0;
};

struct RaceRules {
    double reject = 2;      // standard errors of the paired difference by which a plan must be behind the leader to drop out
    int leastWindows = 4;   // nobody drops out on fewer
    bool halve = true;      // of those that are left only the better half goes on, until all windows are measured
    bool anyGain = true;    // on all windows any gain over the incumbent counts; otherwise it must exceed two standard errors
    bool cautious = false;  // after half of the windows those that gain nothing drop out as well (with an incumbent)
};

struct RaceResult {
    int winner = -1;       // of the entrants; -1: the incumbent stays, or nothing could be measured
    bool stopped = false;  // before everybody had all windows: the winner is the best by what was known
};

// `incumbent`: may be null. `stop`: asked before each measurement; true ends the race. `left`: an entrant dropped out, or the race ended
// for it, and it was compared with the plan of that hash (its own: it was ahead itself); the winner comes last. Both may be empty.
// Errors: search.no_windows, those of the measurements; cancelled is none of them, it ends the race.
using RaceLeft = std::function<void(std::size_t entrant, const std::string& ahead, bool won)>;
Result<RaceResult> race(MeasuredPlans& measured, std::span<const CompressionPlan> entrants, const CompressionPlan* incumbent,
                        const RaceRules& rules, const std::function<bool()>& stop, const RaceLeft& left = {});

}  // namespace espalier
