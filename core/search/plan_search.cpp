#include "search/plan_search.h"

#include "allocate/exact_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace espalier
{

namespace
{

constexpr int kLeastWindows = 4;     // nothing is decided on fewer
constexpr int kProbeWindows = 12;    // a layer alone is measured on so many, and at most a quarter of all
constexpr int kDraws = 3;            // plans from draws of the expectations, each round
constexpr int kLevelsPerMove = 4;    // how far a layer's rank level may go in one exchange
constexpr double kProbeShare = 0.5;  // of the time
constexpr double kSurelyWorse = 6;   // standard errors beyond which a guarded candidate needs no more windows
constexpr std::size_t kSolverStates = std::size_t{1} << 14;

double steadySeconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Proposal {
    std::string name;
    double gain = 0;  // expected
    CompressionPlan plan;
};

class Search
{
public:
    Search(const PlanSearchProblem& problem, const PlanSearchOptions& options, JobContext& job)
        : m_problem(problem),
          m_options(options),
          m_job(job),
          m_clock(options.clock ? options.clock : steadySeconds),
          m_start(m_clock()),
          m_measured(problem.groups, problem.measure),
          m_random(Random::forPurpose(options.seed, "search/plans"))
    {
        m_result.layerRise.assign(problem.shape.layers.size(), std::numeric_limits<double>::quiet_NaN());
        m_stop = [this] { return timeIsUp(); };
    }

    Result<PlanSearchResult> run()
    {
        ESPALIER_CHECK_OK(check());
        ESPALIER_CHECK_OK(firstLook());
        if (!m_ended) ESPALIER_CHECK_OK(probe());
        m_surrogate.emplace(m_problem.options, m_countProbes, m_rankProbes);
        ESPALIER_CHECK_OK(raceCandidates());
        if (!m_best) return cancelledError();
        const CompressionPlan first = *m_best;
        if (!m_ended && !m_problem.layers.empty()) ESPALIER_CHECK_OK(exchange());
        if (!m_ended || m_result.end == PlanSearchEnd::PassLimit || m_result.end == PlanSearchEnd::MoveLimit) ESPALIER_CHECK_OK(guard());
        ESPALIER_CHECK_OK(conclude(first));
        return std::move(m_result);
    }

private:
    std::size_t layers() const { return m_problem.layers.size(); }
    const std::vector<WindowLoss>& losses(const CompressionPlan& plan) const { return m_measured.losses(plan.hash()); }
    std::int64_t costOf(const CompressionPlan& plan, std::size_t layer) const { return m_problem.cost(plan, m_problem.layers[layer]); }
    std::int64_t costOf(const CompressionPlan& plan) const
    {
        std::int64_t sum = 0;
        for (std::size_t l = 0; l < layers(); ++l)
            sum += costOf(plan, l);
        return sum;
    }

    Status check() const
    {
        if (m_problem.candidates.empty() && m_problem.layers.empty())
            return badInput("search.no_candidates", "candidates", "There is no plan to start from.", "Choose at least one allocator.");
        for (const SearchCandidate& candidate : m_problem.candidates) {
            if (candidate.plan.layerCount() != static_cast<int>(m_problem.shape.layers.size()))
                return badInput(
                    "search.shape", candidate.name,
                    {"The plan of \"{name}\" has {layer_count} layers, the model {layers}.",
                     {{"name", candidate.name}, {"layer_count", candidate.plan.layerCount()}, {"layers", m_problem.shape.layers.size()}}},
                    "Use plans of this model.");
            const std::int64_t cost = costOf(candidate.plan);
            if (m_problem.exactly ? cost != m_problem.budget : cost > m_problem.budget)
                return badInput("search.budget", candidate.name,
                                {"The plan of \"{name}\" costs {cost}; the budget is {budget}.",
                                 {{"name", candidate.name}, {"cost", cost}, {"budget", m_problem.budget}}},
                                "Compare plans of one budget.");
        }
        return {};
    }

    bool end(PlanSearchEnd how)
    {
        m_ended = true;
        m_result.end = how;
        return true;
    }
    // Before a candidate was measured only a stop ends the search: there has to be an answer.
    bool timeIsUp()
    {
        if (m_ended) return true;
        if (m_job.stopRequested()) return end(PlanSearchEnd::Cancelled);
        const double elapsed = m_clock() - m_start;
        tell(elapsed);
        if (!m_answer && !m_problem.candidates.empty()) return false;
        if (m_options.seconds > 0 && elapsed >= m_options.seconds) return end(PlanSearchEnd::TimeLimit);
        if (m_options.passes > 0 && m_measured.passes() >= m_options.passes) return end(PlanSearchEnd::PassLimit);
        return false;
    }
    void tell(double elapsed)
    {
        double share = 0;
        if (m_options.seconds > 0) share = std::max(share, elapsed / m_options.seconds);
        if (m_options.passes > 0) share = std::max(share, m_measured.passes() / m_options.passes);
        // Without any limit: nearer with every pass, never there.
        if (m_options.seconds <= 0 && m_options.passes <= 0) share = 1 - 20 / (20 + m_measured.passes());
        m_told = std::max(m_told, static_cast<std::int64_t>(999 * std::min(share, 1.0)));
        m_job.progress(m_told, 1000, "search");
    }
    int firstGroups() const { return std::max(1, m_measured.groupsFor(kLeastWindows)); }

    // False: stopped.
    Result<bool> measure(const CompressionPlan& plan, int groups)
    {
        for (int g = m_measured.known(plan.hash()) + 1; g <= groups; ++g) {
            if (timeIsUp()) return false;
            const Status done = m_measured.measure(plan, g);
            if (done.ok()) continue;
            if (done.error().kind != ErrorKind::Cancelled) return done.error();
            end(PlanSearchEnd::Cancelled);
            return false;
        }
        return true;
    }

    // Every candidate on the first windows: from here on there is an answer.
    Status firstLook()
    {
        bool more = true;
        const CompressionPlan* best = nullptr;
        for (const SearchCandidate& candidate : m_problem.candidates) {
            ESPALIER_TRY(more, measure(candidate.plan, firstGroups()));
            m_answer = true;
            if (!more) break;
            if (!best || pairedDifference(losses(candidate.plan), losses(*best)).nll < 0) best = &candidate.plan;
        }
        if (more) {
            ESPALIER_TRY(more, measure(m_problem.whole, firstGroups()));
        }
        if (best) m_job.partial(toJson(PlanFound{toJson(*best), {}}));
        return {};
    }

    // Each layer alone, everything else whole: at two counts and at one rank.
    Status probe()
    {
        const int groups = std::max(firstGroups(), std::min(m_measured.groupsFor(kProbeWindows), m_measured.groups() / 4));
        m_countProbes.resize(layers());
        m_rankProbes.resize(layers());
        ESPALIER_TRY(bool more, measure(m_problem.whole, groups));
        const double until = m_options.seconds > 0 ? m_start + kProbeShare * m_options.seconds : std::numeric_limits<double>::infinity();
        struct Wanted {
            std::size_t layer;
            const LayerOption* option;
            bool rank;
        };
        std::vector<Wanted> wanted;
        for (const int turn : {0, 1, 2})
            for (std::size_t l = layers(); l-- > 0;)  // deepest first: they are the cheapest
                if (const LayerOption* option = probeOption(l, turn)) wanted.push_back({l, option, turn == 1});
        for (const Wanted& each : wanted) {
            if (!more || m_clock() >= until) break;
            ESPALIER_TRY(const CompressionPlan plan, m_problem.alone({each.layer, *each.option}));
            ESPALIER_TRY(more, measure(plan, groups));
            if (!more) break;
            const PairedDifference difference = pairedDifference(losses(plan), losses(m_problem.whole));
            auto& probes = each.rank ? m_rankProbes : m_countProbes;
            probes[each.layer].push_back({each.rank ? each.option->rank : each.option->prune, difference.nll, difference.se});
            const auto decoder = static_cast<std::size_t>(m_problem.layers[each.layer]);
            if (each.rank || !std::isnan(m_result.layerRise[decoder])) continue;
            m_result.layerRise[decoder] = difference.nll;
            m_job.partial(toJson(LayerAlone{m_problem.layers[each.layer], difference.nll}));
        }
        return {};
    }

    // What a layer is measured at: half and twice as deep as the budget asks for on average, and half of that by rank.
    const LayerOption* probeOption(std::size_t layer, int turn) const
    {
        const std::vector<LayerOption>& options = m_problem.options[layer];
        std::int64_t wholeCost = 0;
        for (const auto& each : m_problem.options)
            wholeCost += std::max_element(each.begin(), each.end(), [](const auto& a, const auto& b) { return a.cost < b.cost; })->cost;
        const double depth = 1 - static_cast<double>(m_problem.budget) / static_cast<double>(std::max<std::int64_t>(wholeCost, 1));
        const LayerOption& full = *std::max_element(options.begin(), options.end(), [](const auto& a, const auto& b) {
            return a.count != b.count ? a.count < b.count : a.level > b.level;
        });
        const auto nearest = [&](auto&& usable, auto&& distance) {
            const LayerOption* best = nullptr;
            for (const LayerOption& option : options)
                if (usable(option) && (!best || distance(option) < distance(*best))) best = &option;
            return best;
        };
        if (turn == 1) {
            const double wanted = (1 - 0.6 * depth) * static_cast<double>(full.cost);
            return nearest([&](const LayerOption& o) { return o.count == full.count && o.level > 0 && o.rank > 0; },
                           [&](const LayerOption& o) { return std::abs(static_cast<double>(o.cost) - wanted); });
        }
        const double removed = (turn == 0 ? 0.6 : 1.4) * depth * full.count;
        return nearest([&](const LayerOption& o) { return o.count < full.count && o.level == 0 && o.prune > 0; },
                       [&](const LayerOption& o) { return std::abs(full.count - o.count - removed); });
    }

    // The options that cost least by the expectations, as one choice per layer; nullopt: none fits.
    std::optional<std::vector<int>> solve(const std::vector<double>& factors) const
    {
        const SolverSettings settings{m_problem.exactly ? SolverBudget::Exactly : SolverBudget::AtMost, kSolverStates};
        const auto solveFor = [&](int count) -> std::optional<SolverAnswer> {
            std::vector<SolverLayer> all(layers());
            for (std::size_t l = 0; l < layers(); ++l)
                for (std::size_t o = 0; o < m_problem.options[l].size(); ++o) {
                    const LayerOption& option = m_problem.options[l][o];
                    if (count >= 0 && option.count != count) continue;
                    all[l].push_back({option.cost, m_surrogate->rise(l, option, factors), static_cast<int>(o)});
                }
            if (std::any_of(all.begin(), all.end(), [](const SolverLayer& layer) { return layer.empty(); })) return std::nullopt;
            Result<SolverAnswer> answer = solveExact(all, m_problem.budget, settings);
            return answer.ok() ? std::optional(std::move(answer).value()) : std::nullopt;
        };
        std::optional<SolverAnswer> best;
        if (!m_problem.uniformCount) {
            best = solveFor(-1);
        } else {
            std::set<int> counts;
            for (const LayerOption& option : m_problem.options.front())
                counts.insert(option.count);
            for (const int count : counts)
                if (auto answer = solveFor(count); answer && (!best || answer->loss < best->loss)) best = std::move(answer);
        }
        return best ? std::optional(best->payload) : std::nullopt;
    }

    // nullopt: there is no such plan, or it is known already.
    Result<std::optional<CompressionPlan>> solved(const std::vector<double>& factors)
    {
        const auto choice = solve(factors);
        if (!choice) return std::optional<CompressionPlan>();
        std::vector<LayerChange> changes;
        for (std::size_t l = 0; l < layers(); ++l)
            changes.emplace_back(l, m_problem.options[l][static_cast<std::size_t>((*choice)[l])]);
        ESPALIER_TRY(auto plan, m_problem.apply(m_problem.start, changes));
        if (plan && !fresh(*plan)) plan.reset();
        return plan;
    }
    bool fresh(const CompressionPlan& plan) const { return !m_raced.contains(plan.hash()) && withinBudget(plan); }
    bool withinBudget(const CompressionPlan& plan) const
    {
        const std::int64_t cost = costOf(plan);
        return m_problem.exactly ? cost == m_problem.budget : cost <= m_problem.budget;
    }

    Status raceCandidates()
    {
        std::vector<Proposal> entrants;
        std::set<std::string> hashes;
        const auto add = [&](Proposal proposal) {
            if (hashes.insert(proposal.plan.hash()).second) entrants.push_back(std::move(proposal));
        };
        for (const SearchCandidate& candidate : m_problem.candidates) {
            add({candidate.name, 0, candidate.plan});
            m_contenders.push_back(candidate);
        }
        if (!m_problem.layers.empty()) {
            // Ranks as measured, and twice and half as dear: the exchange rate between experts and ranks is what is known least.
            for (const auto& [name, rank] :
                 {std::pair("measured", 1.0), std::pair("measured, higher ranks", 2.0), std::pair("measured, lower ranks", 0.5)}) {
                std::vector<double> factors(2 * layers(), 1);
                for (std::size_t i = 1; i < factors.size(); i += 2)
                    factors[i] = rank;
                ESPALIER_TRY(auto plan, solved(factors));
                if (!plan) continue;
                m_contenders.push_back({name, *plan, false});
                add({name, 0, std::move(*plan)});
            }
        }
        if (entrants.empty())
            return badInput("search.no_candidates", "candidates", "No plan of this size can be made.",
                            "Choose a larger size, or unlock layers.");
        RaceRules rules;
        rules.leastWindows = kLeastWindows;
        ESPALIER_CHECK_OK(runRace(entrants, rules, false));
        // No time for a single measurement: what is expected to be best.
        if (!m_best && m_result.end != PlanSearchEnd::Cancelled) {
            m_best = entrants.front().plan;
            m_result.start = entrants.front().name;
        }
        return {};
    }

    Status runRace(const std::vector<Proposal>& entrants, const RaceRules& rules, bool asMove)
    {
        std::vector<CompressionPlan> plans;
        for (const Proposal& entrant : entrants) {
            plans.push_back(entrant.plan);
            m_raced.insert(entrant.plan.hash());
        }
        const std::optional<CompressionPlan> before = m_best;
        const auto left = [&](std::size_t entrant, const std::string& ahead, bool won) { note(entrants[entrant], ahead, won); };
        ESPALIER_TRY(const RaceResult result, race(m_measured, plans, before ? &*before : nullptr, rules, m_stop, left));
        // A measurement that was broken off by a stop.
        if (result.stopped && !m_ended) end(PlanSearchEnd::Cancelled);
        if (result.winner < 0) return {};
        const auto winner = static_cast<std::size_t>(result.winner);
        m_best = plans[winner];
        if (!before) m_result.start = entrants[winner].name;
        if (asMove) ++m_result.moves;
        if (asMove && m_options.maxMoves > 0 && m_result.moves >= m_options.maxMoves) end(PlanSearchEnd::MoveLimit);
        return {};
    }

    void note(const Proposal& entrant, const std::string& ahead, bool accepted)
    {
        const std::vector<WindowLoss>& own = losses(entrant.plan);
        PlanSearchStep step{
            .name = entrant.name, .planHash = entrant.plan.hash(), .nll = perplexity(own).nll, .windows = static_cast<int>(own.size())};
        if (ahead != step.planHash) {
            const PairedDifference difference = pairedDifference(own, m_measured.losses(ahead));
            step.change = difference.nll;
            step.changeError = difference.se;
        }
        step.rise = pairedDifference(own, losses(m_problem.whole)).nll;
        step.estimatedGain = entrant.gain;
        step.passes = m_measured.passes();
        step.accepted = accepted;
        ++m_result.measured;
        if (!m_problem.layers.empty()) observe(entrant.plan);
        PlanMeasured measured{step, {}};
        if (accepted) measured.plan = toJson(entrant.plan);
        m_job.partial(toJson(measured));
        m_result.trace.push_back(std::move(step));
    }

    // The options that are nearest to a plan's layers.
    std::vector<int> nearest(const CompressionPlan& plan) const
    {
        std::vector<int> choice;
        for (std::size_t l = 0; l < layers(); ++l) {
            const auto count = static_cast<int>(plan.layer(m_problem.layers[l]).kept().size());
            const std::int64_t cost = costOf(plan, l);
            int best = 0;
            const auto distance = [&](const LayerOption& option) {
                return std::pair(std::abs(option.count - count), std::abs(option.cost - cost));
            };
            for (std::size_t o = 1; o < m_problem.options[l].size(); ++o)
                if (distance(m_problem.options[l][o]) < distance(m_problem.options[l][static_cast<std::size_t>(best)]))
                    best = static_cast<int>(o);
            choice.push_back(best);
        }
        return choice;
    }

    void observe(const CompressionPlan& plan)
    {
        const PairedDifference difference = pairedDifference(losses(plan), losses(m_problem.whole));
        if (difference.windows < kLeastWindows && difference.windows < m_measured.windowsIn(m_measured.groups())) return;
        m_observed[plan.hash()] = {nearest(plan), difference.nll, difference.se};
    }

    // Rounds of proposals against the best plan so far, until nothing helps any more.
    Status exchange()
    {
        // What all rises are measured from, on the windows that the best plans have.
        ESPALIER_TRY(const bool more, measure(m_problem.whole, m_measured.groups()));
        if (!more) return {};
        for (int quiet = 0; quiet < m_options.quietRounds && !m_ended;) {
            std::vector<PlanSurrogate::Observation> observations;
            for (const auto& [hash, observation] : m_observed)
                observations.push_back(observation);
            m_surrogate->fit(observations);
            ESPALIER_TRY(const std::vector<Proposal> entrants, proposals());
            if (entrants.empty()) return {};
            const std::string before = m_best->hash();
            RaceRules rules;
            rules.leastWindows = kLeastWindows;
            rules.reject = 1;
            rules.cautious = true;
            rules.anyGain = m_options.allWindows;
            ESPALIER_CHECK_OK(runRace(entrants, rules, true));
            quiet = m_best->hash() == before ? quiet + 1 : 0;
        }
        return {};
    }

    Result<std::vector<Proposal>> proposals()
    {
        std::vector<Proposal> all;
        std::set<std::string> hashes;
        const auto add = [&](std::string name, double gain, CompressionPlan plan) {
            if (hashes.insert(plan.hash()).second) all.push_back({std::move(name), gain, std::move(plan)});
        };
        for (int draw = 0; draw <= kDraws; ++draw) {
            ESPALIER_TRY(auto plan, solved(draw == 0 ? std::vector<double>() : m_surrogate->draw(m_random)));
            if (!plan) continue;
            const double gain = m_surrogate->rise(nearest(*m_best)) - m_surrogate->rise(nearest(*plan));
            add("all layers", gain, std::move(*plan));
        }
        ESPALIER_CHECK_OK(addExchanges(add));
        return all;
    }

    // One or two layers that change, the others as they are.
    struct Exchange {
        double gain = 0;
        std::vector<LayerChange> changes;
    };

    // Forms near to the one that a layer has, by what happens to the count: fewer, as many, more.
    std::vector<LayerOption> neighbours(std::size_t layer, const LayerOption& now, std::int64_t cost) const
    {
        std::set<int> counts = {now.count};
        if (!m_problem.uniformCount)
            for (const int unit : m_options.units)
                for (const int count : {now.count - unit, now.count + unit})
                    counts.insert(count);
        std::vector<LayerOption> found;
        for (const LayerOption& option : m_problem.options[layer])
            if (counts.contains(option.count) && std::abs(option.level - now.level) <= kLevelsPerMove &&
                (option.count != now.count || option.cost != cost))
                found.push_back(option);
        return found;
    }

    static int direction(const LayerOption& option, const LayerOption& now)
    {
        return option.count < now.count ? 0 : option.count == now.count ? 1 : 2;
    }

    template <typename Add>
    Status addExchanges(const Add& add)
    {
        const std::vector<int> choice = nearest(*m_best);
        std::vector<LayerOption> now;
        std::vector<std::int64_t> cost;
        std::vector<std::vector<LayerOption>> near;
        std::int64_t spare = m_problem.budget;
        for (std::size_t l = 0; l < layers(); ++l) {
            now.push_back(m_problem.options[l][static_cast<std::size_t>(choice[l])]);
            cost.push_back(costOf(*m_best, l));
            near.push_back(neighbours(l, now.back(), cost.back()));
            spare -= cost.back();
        }
        const auto fits = [&](std::int64_t before, std::int64_t after) {
            return m_problem.exactly ? after == before + spare : after <= before + spare;
        };
        const auto gain = [&](std::size_t l, const LayerOption& option) {
            return m_surrogate->rise(l, now[l]) - m_surrogate->rise(l, option);
        };
        std::vector<Exchange> all;
        for (std::size_t a = 0; a < layers(); ++a) {
            for (const LayerOption& option : near[a])
                if (fits(cost[a], option.cost)) all.push_back({gain(a, option), {{a, option}}});
            for (std::size_t b = a + 1; b < layers(); ++b) {
                // Of each kind of exchange the best rank levels.
                std::map<std::pair<int, int>, Exchange> kinds;
                for (const LayerOption& first : near[a])
                    for (const LayerOption& second : near[b]) {
                        if (!fits(cost[a] + cost[b], first.cost + second.cost)) continue;
                        const double sum = gain(a, first) + gain(b, second);
                        const auto kind = std::pair(direction(first, now[a]), direction(second, now[b]));
                        const auto it = kinds.find(kind);
                        if (it != kinds.end() && it->second.gain >= sum) continue;
                        kinds[kind] = {sum, {{a, first}, {b, second}}};
                    }
                for (auto& [kind, exchange] : kinds)
                    all.push_back(std::move(exchange));
            }
        }
        std::stable_sort(all.begin(), all.end(), [](const Exchange& a, const Exchange& b) { return a.gain > b.gain; });
        int taken = 0;
        for (const Exchange& exchange : all) {
            if (taken >= m_options.perRound) break;
            ESPALIER_TRY(auto plan, m_problem.apply(*m_best, exchange.changes));
            if (!plan || !fresh(*plan)) continue;
            add(nameOf(exchange, now), exchange.gain, std::move(*plan));
            ++taken;
        }
        return {};
    }

    std::string nameOf(const Exchange& exchange, const std::vector<LayerOption>& now) const
    {
        const auto& [a, first] = exchange.changes.front();
        const auto& [b, second] = exchange.changes.back();
        const int layerA = m_problem.layers[a];
        const int layerB = m_problem.layers[b];
        const int moreA = first.count - now[a].count;
        const int moreB = second.count - now[b].count;
        if (exchange.changes.size() == 1)
            return moreA == 0 ? fmt::format("rank {}", layerA) : fmt::format("{} {}", moreA > 0 ? "more experts" : "fewer experts", layerA);
        if (moreA == 0 && moreB == 0)
            return first.cost < now[a].cost ? fmt::format("rank {} -> {}", layerA, layerB) : fmt::format("rank {} -> {}", layerB, layerA);
        if (moreA <= 0 && moreB >= 0) return fmt::format("experts {} -> {}", layerA, layerB);
        if (moreA >= 0 && moreB <= 0) return fmt::format("experts {} -> {}", layerB, layerA);
        return fmt::format("{} {}, {}", moreA > 0 ? "more experts" : "fewer experts", layerA, layerB);
    }

    // What must not have been better is measured to the end, unless it is behind beyond doubt.
    Status guard()
    {
        const bool limited = m_ended;
        const PlanSearchEnd how = m_result.end;
        // A limit of passes or moves does not forbid to make sure of the answer.
        m_ended = false;
        const int groups = m_measured.known(m_best->hash());
        for (const SearchCandidate& candidate : m_problem.candidates) {
            if (!candidate.guarded || candidate.plan.hash() == m_best->hash()) continue;
            const PairedDifference known = pairedDifference(losses(candidate.plan), losses(*m_best));
            if (known.windows >= kLeastWindows && known.nll > kSurelyWorse * known.se) continue;
            for (int g = m_measured.known(candidate.plan.hash()) + 1; g <= groups; ++g) {
                if (m_job.stopRequested()) {
                    end(PlanSearchEnd::Cancelled);
                    return {};
                }
                if (m_options.seconds > 0 && m_clock() - m_start >= m_options.seconds) {
                    end(PlanSearchEnd::TimeLimit);
                    return {};
                }
                const Status done = m_measured.measure(candidate.plan, g);
                if (!done.ok() && done.error().kind != ErrorKind::Cancelled) return done.error();
                if (!done.ok()) {
                    end(PlanSearchEnd::Cancelled);
                    return {};
                }
            }
            if (!(pairedDifference(losses(candidate.plan), losses(*m_best)).nll < 0)) continue;
            const std::string before = m_best->hash();
            m_best = candidate.plan;
            note({candidate.name, 0, candidate.plan}, before, true);
        }
        if (limited) end(how);
        return {};
    }

    Status conclude(const CompressionPlan& first)
    {
        m_result.plan = *m_best;
        m_result.losses = losses(*m_best);
        m_result.passes = m_measured.passes();
        if (first.hash() == m_best->hash())
            m_result.change = {.windows = static_cast<int>(m_result.losses.size())};
        else
            m_result.change = pairedDifference(m_result.losses, losses(first));
        if (!losses(m_problem.whole).empty()) m_result.againstWhole = pairedDifference(m_result.losses, losses(m_problem.whole));
        if (!m_problem.candidates.empty() && !losses(m_problem.candidates.front().plan).empty())
            m_result.againstFirst = pairedDifference(m_result.losses, losses(m_problem.candidates.front().plan));
        m_result.finalists = finalists();
        if (m_problem.measureLocked && m_result.end != PlanSearchEnd::Cancelled) {
            ESPALIER_TRY(const std::vector<WindowLoss> before, m_problem.measureLocked(first));
            ESPALIER_TRY(const std::vector<WindowLoss> after, m_problem.measureLocked(m_result.plan));
            m_result.lockedChange = pairedDifference(after, before);
        }
        if (m_result.end != PlanSearchEnd::Cancelled) m_job.progress(1000, 1000, "search");
        return {};
    }

    std::vector<SearchCandidate> finalists() const
    {
        std::vector<std::pair<double, const SearchCandidate*>> others;
        std::set<std::string> hashes = {m_best->hash()};
        for (const SearchCandidate& contender : m_contenders)
            if (!losses(contender.plan).empty() && hashes.insert(contender.plan.hash()).second)
                others.emplace_back(pairedDifference(losses(contender.plan), losses(*m_best)).nll, &contender);
        std::stable_sort(others.begin(), others.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        const auto step = std::find_if(m_result.trace.rbegin(), m_result.trace.rend(),
                                       [&](const PlanSearchStep& each) { return each.planHash == m_best->hash(); });
        std::vector<SearchCandidate> all = {{step == m_result.trace.rend() ? m_result.start : step->name, *m_best, true}};
        for (const auto& [loss, contender] : others)
            all.push_back(*contender);
        return all;
    }

    const PlanSearchProblem& m_problem;
    const PlanSearchOptions& m_options;
    JobContext& m_job;
    std::function<double()> m_clock;
    double m_start = 0;
    std::function<bool()> m_stop;
    MeasuredPlans m_measured;
    Random m_random;
    std::vector<std::vector<LayerProbe>> m_countProbes;
    std::vector<std::vector<LayerProbe>> m_rankProbes;
    std::optional<PlanSurrogate> m_surrogate;
    std::map<std::string, PlanSurrogate::Observation> m_observed;  // by plan hash
    std::set<std::string> m_raced;
    std::vector<SearchCandidate> m_contenders;  // of the first race
    std::optional<CompressionPlan> m_best;
    bool m_answer = false;  // a candidate was measured
    bool m_ended = false;
    std::int64_t m_told = 0;
    PlanSearchResult m_result;
};

}  // namespace

const char* planSearchEndName(PlanSearchEnd end)
{
    switch (end) {
        case PlanSearchEnd::Converged:
            return "converged";
        case PlanSearchEnd::TimeLimit:
            return "time-limit";
        case PlanSearchEnd::PassLimit:
            return "pass-limit";
        case PlanSearchEnd::MoveLimit:
            return "move-limit";
        case PlanSearchEnd::Cancelled:
            return "cancelled";
    }
    return "";
}

Result<PlanSearchResult> searchPlans(const PlanSearchProblem& problem, const PlanSearchOptions& options, JobContext& job)
{
    return Search(problem, options, job).run();
}

const MethodInfo& verifiedInfo()
{
    static const MethodInfo info = {
        .id = "verified",
        .title = "Verified search",
        .slot = Slot::Allocate,
        .help =
            "Measures the answers of the other methods and its own on the model, and exchanges experts and ranks between layers as long "
            "as the measured loss falls. For a size, ranks belong to the answer.",
        .params = {{.key = "minutes",
                    .type = ParamType::Number,
                    .defaultValue = 0,
                    .low = 0,
                    .high = 10000,
                    .choices = {},
                    .unit = "min",
                    .help = "Time limit; 0 = until nothing helps. The best plan so far is the answer."},
                   {.key = "passes",
                    .type = ParamType::Integer,
                    .defaultValue = 40,
                    .low = 0,
                    .high = 100000,
                    .choices = {},
                    .unit = "",
                    .help = "Full passes of the model over all windows that the measurements may be worth; 0 = no limit."},
                   {.key = "unit",
                    .type = ParamType::Integer,
                    .defaultValue = 1,
                    .low = 1,
                    .high = 64,
                    .choices = {},
                    .unit = "experts",
                    .help = "Experts moved at a time at most; halves of it down to 1 are tried as well."},
                   {.key = "moves",
                    .type = ParamType::Integer,
                    .defaultValue = 0,
                    .low = 0,
                    .high = 100000,
                    .choices = {},
                    .unit = "",
                    .help = "Changes after the candidates at most; 0 = no limit."},
                   {.key = "ranks",
                    .type = ParamType::Choice,
                    .defaultValue = "free",
                    .low = 0,
                    .high = 0,
                    .choices = {"free", "off"},
                    .unit = "",
                    .help = "With a size as target and rank curves in the profile ranks are chosen together with counts; off: experts stay "
                            "whole."}},
        .needs = {"gram"},
        .stochastic = false,
        .source = "Races: Maron and Moore, NIPS 1993; multiple-choice knapsack over measured layers",
        .runsModel = true,
        .needsCurves = true,
        .searches = true,
        .answers = {Answer::Counts, Answer::Ranks}};
    return info;
}

PlanSearchOptions planSearchOptions(const Params& params)
{
    PlanSearchOptions options;
    options.seconds = 60 * params.at("minutes").get<double>();
    options.passes = params.at("passes").get<double>();
    options.maxMoves = params.at("moves").get<int>();
    options.units.clear();
    for (int unit = params.at("unit").get<int>(); unit >= 1; unit /= 2)
        options.units.push_back(unit);
    return options;
}

}  // namespace espalier
