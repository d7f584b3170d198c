// The layer-wise genetic search of MoE-I2 (arXiv 2411.01016): individuals are removed sets, children are drawn from the union of two
// elites, mutation replaces one expert, every loss comes from the Gram store and is computed once.
#include "search/layer_search.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

namespace espalier
{

namespace
{

struct Individual {
    ExpertBits kept;
    ExpertSet set;    // for the order of ties
    double loss = 0;  // squared; up to rounding where LayerSearch::losses leaves it so
};

class Genetic
{
public:
    Genetic(LayerSearch& search, const Params& params)
        : m_search(search),
          m_random(search.random("select/genetic")),
          m_population(std::min(params.at("population").get<double>(), search.combinations())),
          m_generations(params.at("generations").get<int>()),
          m_elites(std::clamp<std::size_t>(std::llround(params.at("elites").get<double>() * static_cast<double>(m_population)), 1,
                                           std::max<std::size_t>(m_population - 1, 1))),
          m_mutation(params.at("mutation").get<double>())
    {
    }

    // Errors: those of the batch.
    Status run()
    {
        std::vector<Individual> population;
        ESPALIER_CHECK_OK(add(firstSets(), population));
        if (!m_search.endStep()) return {};
        for (int generation = 0; generation < m_generations; ++generation) {
            keepElites(population);
            std::vector<ExpertBits> children;
            while (population.size() + children.size() < m_population)
                children.push_back(child(population));
            ESPALIER_CHECK_OK(add(children, population));
            if (!m_search.endStep()) return {};
        }
        return {};
    }

private:
    Status add(const std::vector<ExpertBits>& sets, std::vector<Individual>& population)
    {
        ESPALIER_TRY(const std::vector<double> losses, m_search.losses(sets));
        for (std::size_t i = 0; i < sets.size(); ++i)
            population.push_back({sets[i], sets[i].toSet(), losses[i]});
        return {};
    }

    // `count` distinct members of `pool`, uniformly; the pool is shuffled.
    std::vector<int> draw(std::vector<int>& pool, int count)
    {
        for (int i = 0; i < count; ++i)
            std::swap(pool[static_cast<std::size_t>(i)],
                      pool[static_cast<std::size_t>(i) + m_random.below(pool.size() - static_cast<std::size_t>(i))]);
        return {pool.begin(), pool.begin() + count};
    }

    ExpertBits randomSet()
    {
        ExpertBits kept = ExpertBits::all(m_search.experts());
        for (std::vector<int> pool : m_search.removable())
            for (const int e : draw(pool, m_search.removedPerGroup()))
                kept.erase(e);
        return kept;
    }

    std::vector<ExpertBits> firstSets()
    {
        std::unordered_set<ExpertBits, ExpertBits::Hash> seen;
        std::vector<ExpertBits> sets;
        for (const ExpertBits& kept : m_search.rankedSets())
            if (sets.size() < m_population && seen.insert(kept).second) sets.push_back(kept);
        while (sets.size() < m_population) {
            const ExpertBits kept = randomSet();
            if (seen.insert(kept).second) sets.push_back(kept);
        }
        return sets;
    }

    // Elites are ordered by exact losses: children are drawn by their place among them.
    void keepElites(std::vector<Individual>& population)
    {
        const auto before = [](const Individual& a, const Individual& b) { return a.loss != b.loss ? a.loss < b.loss : a.set < b.set; };
        std::sort(population.begin(), population.end(), before);
        population.erase(
            std::unique(population.begin(), population.end(), [](const Individual& a, const Individual& b) { return a.kept == b.kept; }),
            population.end());
        const double last = population[std::min(m_elites, population.size()) - 1].loss * (1 + LayerSearch::kRounding);
        while (population.back().loss > last)
            population.pop_back();
        for (Individual& individual : population)
            individual.loss = m_search.loss(individual.kept);
        std::sort(population.begin(), population.end(), before);
        if (population.size() > m_elites) population.resize(m_elites);
    }

    ExpertBits child(const std::vector<Individual>& population)
    {
        const std::size_t elites = population.size();
        const std::size_t a = m_random.below(elites);
        std::size_t b = a;
        if (elites > 1) {
            b = m_random.below(elites - 1);
            if (b >= a) ++b;
        }
        const ExpertBits& keptA = population[a].kept;
        const ExpertBits& keptB = population[b].kept;
        ExpertBits kept = ExpertBits::all(m_search.experts());
        for (const auto& group : m_search.removable()) {
            std::vector<int> pool;
            for (const int e : group)
                if (!keptA.contains(e) || !keptB.contains(e)) pool.push_back(e);
            for (const int e : draw(pool, m_search.removedPerGroup()))
                kept.erase(e);
        }
        if (keptA == keptB || m_random.uniform() < m_mutation) mutate(kept);
        return kept;
    }

    // One removed expert comes back, another one of its group goes.
    void mutate(ExpertBits& kept)
    {
        std::vector<std::pair<int, std::size_t>> out;
        std::vector<std::vector<int>> in(m_search.removable().size());
        for (std::size_t group = 0; group < in.size(); ++group)
            for (const int e : m_search.removable()[group])
                if (kept.contains(e)) in[group].push_back(e);
        for (std::size_t group = 0; group < in.size(); ++group)
            for (const int e : m_search.removable()[group])
                if (!kept.contains(e) && !in[group].empty()) out.emplace_back(e, group);
        if (out.empty()) return;
        const auto [back, group] = out[m_random.below(out.size())];
        kept.erase(in[group][m_random.below(in[group].size())]);
        kept.insert(back);
    }

    LayerSearch& m_search;
    Random m_random;
    std::size_t m_population;
    int m_generations;
    std::size_t m_elites;
    double m_mutation;
};

}  // namespace

SelectMethod geneticMethod()
{
    SelectMethod method;
    const auto number = [](const char* key, ParamType type, Json value, double low, double high, const char* unit, const char* help) {
        return ParamSpec{.key = key,
                         .type = type,
                         .defaultValue = std::move(value),
                         .low = low,
                         .high = high,
                         .choices = {},
                         .unit = unit,
                         .help = help};
    };
    method.info = {
        .id = "genetic",
        .title = "Genetic search",
        .slot = Slot::Select,
        .help = "Breeds sets of experts to remove from the best ones so far. Never worse than ranking by leave-one-out importance.",
        .params = {number("population", ParamType::Integer, 100, 4, 5000, "sets", "Sets per generation."),
                   number("generations", ParamType::Integer, 50, 0, 5000, "", "How often children replace all but the best."),
                   number("elites", ParamType::Number, 0.2, 0.01, 0.9, "", "Share of the population that survives and has children."),
                   number("mutation", ParamType::Number, 0.3, 0, 1, "", "Probability that a child exchanges one expert."),
                   number("enumerate_below", ParamType::Integer, 5000, 0, 10'000'000, "sets",
                          "A layer with at most so many sets is searched completely instead."),
                   swapParameter()},
        .needs = {"gram"},
        .stochastic = true,
        .source = "MoE-I2, arXiv 2411.01016, eq. 3"};
    method.run = [](LayerSearch& search, const Params& params) -> Status {
        if (search.combinations() <= params.at("enumerate_below").get<double>()) {
            return enumerate(search);
        }
        ESPALIER_CHECK_OK(Genetic(search, params).run());
        if (!search.stopped() && params.at("swap") == true) improveBySwaps(search, search.bestSet());
        return {};
    };
    return method;
}

}  // namespace espalier
