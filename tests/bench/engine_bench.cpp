// Times of the engine's inner loops on one model, in one process: what tests/bench/run sets beside other tools. One JSON object per line.
// engine_bench MODEL [--dtype fp32|bf16] [--windows 8] [--length 512] [--ids FILE] [--threads 2] [--repeat 3] [--budget BYTES] ITEM...
//   load        seconds until the first layer of a fresh process is computed, and until all are
//   first       the same forward as the first thing a process does, its start and the reading of the weights included
//   forward     plain forward with the loss of every token
//   statistics  the profile pass with all routed statistics (counts, ean, reap)
//   gram        MoE part of each layer: plain, and with lists of top-(k+5) and their products; then leave-one-out and genetic search
//   suffix      full run, then after an edit of each layer
//   moments     the plain forward, layers and head apart, and its layers with the second moments of all matrices
//   curves      second moments and error curves of all matrices: the profile pass with curves
// Tokens are random: routing of random weights is near uniform, which is the hardest case for an expert loop. --ids FILE: those of a file
// instead, in rows of the given length, so that a peer can run on the same.
#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "model/moe_model_torch.h"
#include "profile/factor_builder.h"
#include "profile/profile_pass.h"
#include "profile/statistics/statistic_collector.h"
#include "score/gram_loss.h"
#include "search/selector.h"
#include "tokenizer/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

using namespace espalier;

namespace
{

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

template <typename T>
T require(Result<T> result)
{
    if (result.ok()) return std::move(result).value();
    std::fprintf(stderr, "%s\n", result.error().describe().c_str());
    std::exit(1);
}

struct Settings {
    std::string model, ids;
    std::vector<std::string> items;
    ModelOptions options;
    int windows = 8, length = 512, repeat = 3;
};

Settings parse(int argc, char** argv)
{
    Settings settings;
    settings.options.threads = 2;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const auto next = [&] { return std::string(i + 1 < argc ? argv[++i] : ""); };
        if (argument == "--dtype")
            settings.options.compute = next() == "bf16" ? ComputeType::Bf16 : ComputeType::Fp32;
        else if (argument == "--windows")
            settings.windows = std::stoi(next());
        else if (argument == "--length")
            settings.length = std::stoi(next());
        else if (argument == "--ids")
            settings.ids = next();
        else if (argument == "--threads")
            settings.options.threads = std::stoi(next());
        else if (argument == "--repeat")
            settings.repeat = std::stoi(next());
        else if (argument == "--budget")
            settings.options.memoryBudget = std::stoll(next());
        else if (settings.model.empty())
            settings.model = argument;
        else
            settings.items.push_back(argument);
    }
    return settings;
}

TokenWindows randomWindows(const Settings& settings, std::int64_t vocabulary)
{
    TokenWindows windows;
    windows.windowLength = settings.length;
    windows.source = "random tokens";
    Random random(7);
    for (int w = 0; w < settings.windows; ++w) {
        windows.rows.emplace_back();
        for (int t = 0; t < settings.length; ++t)
            windows.rows.back().push_back(static_cast<int>(random.below(static_cast<std::uint64_t>(vocabulary))));
    }
    windows.textSha256 = hashOfRows(windows.rows);
    return windows;
}

TokenWindows windowsFor(const Settings& settings, std::int64_t vocabulary)
{
    if (settings.ids.empty()) return randomWindows(settings, vocabulary);
    TokenWindows windows =
        require(windowsFromIds(settings.ids, {.windowLength = settings.length, .maxWindows = settings.windows}, vocabulary));
    for (const auto& row : windows.rows)
        if (static_cast<int>(row.size()) != settings.length) {
            std::fprintf(stderr, "%s: a row has %zu ids, not %d\n", settings.ids.c_str(), row.size(), settings.length);
            std::exit(1);
        }
    return windows;
}

std::int64_t statusBytes(const std::string& key)
{
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
    return 0;
}

void report(Json line)
{
    line["rss_anon"] = statusBytes("RssAnon");
    line["rss_file"] = statusBytes("RssFile");
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

Json timed(const char* item, const std::vector<double>& seconds, std::int64_t tokens)
{
    const double middle = median(seconds);
    return {{"item", item}, {"seconds", seconds}, {"median", middle}, {"tokens_per_second", static_cast<double>(tokens) / middle}};
}

struct Bench {
    Settings settings;
    std::shared_ptr<const Checkpoint> checkpoint;
    std::unique_ptr<MoeModel> model;
    TokenWindows windows;
    std::int64_t tokens = 0;
    SilentJob job;

    void first(Clock::time_point start)
    {
        const std::vector<int> all = firstWindows(static_cast<int>(windows.rows.size()));
        Evaluator evaluator(*model, windows, 0);
        require(evaluator.run(CompressionPlan::identity(model->shape()), all, {}, job));
        report({{"item", "first"}, {"seconds", since(start)}});
    }

    void forward()
    {
        const CompressionPlan identity = CompressionPlan::identity(model->shape());
        const std::vector<int> all = firstWindows(static_cast<int>(windows.rows.size()));
        std::vector<double> seconds;
        double nll = 0;
        for (int i = 0; i < settings.repeat; ++i) {
            Evaluator evaluator(*model, windows, 0);
            const auto start = Clock::now();
            const auto losses = require(evaluator.run(identity, all, {}, job));
            seconds.push_back(since(start));
            nll = losses.front().nll;
        }
        Json line = timed("forward", seconds, tokens);
        line["nll"] = nll;
        report(line);
    }

    void profile(const char* item, const std::vector<std::string>& collect, int gramTokens)
    {
        std::vector<double> seconds;
        for (int i = 0; i < settings.repeat; ++i) {
            ProfileOptions options;
            options.collect = collect;
            options.gramTokens = gramTokens;
            const auto start = Clock::now();
            require(runProfile(*model, windows, options, job));
            seconds.push_back(since(start));
        }
        report(timed(item, seconds, tokens));
    }

    // From the end of attention to the end of the MoE module, what an observer does included.
    class Watch final : public LayerObserver
    {
    public:
        explicit Watch(LayerObserver* observed) : m_observed(observed) {}
        void attention(int, const at::Tensor&) override { m_start = Clock::now(); }
        void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                    const at::Tensor& w) override
        {
            if (m_observed) m_observed->expert(layer, expert, tokens, x, h, y, w);
        }
        void moe(const MoeBatch& batch) override
        {
            if (m_observed) m_observed->moe(batch);
            seconds += since(m_start);
        }
        double seconds = 0;

    private:
        LayerObserver* m_observed;
        Clock::time_point m_start;
    };

    // In batches of 2,048 tokens, as the profile pass runs long texts.
    std::vector<at::Tensor> embedded()
    {
        const std::size_t perBatch = std::max<std::size_t>(1, 2048 / static_cast<std::size_t>(settings.length));
        std::vector<at::Tensor> hidden;
        for (std::size_t first = 0; first < windows.rows.size(); first += perBatch) {
            const std::size_t count = std::min(perBatch, windows.rows.size() - first);
            at::Tensor ids = at::empty({static_cast<std::int64_t>(count), settings.length}, at::kLong);
            for (std::size_t w = 0; w < count; ++w)
                std::copy(windows.rows[first + w].begin(), windows.rows[first + w].end(),
                          ids.mutable_data_ptr<std::int64_t>() + w * static_cast<std::size_t>(settings.length));
            hidden.push_back(require(model->embed(ids)));
        }
        return hidden;
    }

    void moments()
    {
        const c10::InferenceMode guard;
        const PreparedPlan identity = model->identity();
        std::vector<at::Tensor> hidden = embedded();
        double head = 0;
        double plain = 0;
        double summed = 0;
        for (const LayerShape& layer : model->shape().layers) {
            std::vector<int> experts(static_cast<std::size_t>(layer.experts));
            std::iota(experts.begin(), experts.end(), 0);
            MomentCollector collector(*model, layer, experts);
            for (at::Tensor& state : hidden) {
                auto start = Clock::now();
                require(model->layer(layer.index, state, identity, &collector));
                summed += since(start);
                start = Clock::now();
                state = require(model->layer(layer.index, state, identity));
                plain += since(start);
            }
            if (!collector.status().ok()) std::exit(1);
        }
        for (const at::Tensor& state : hidden) {
            const auto start = Clock::now();
            require(model->tokenNll(state, at::zeros({state.size(0), state.size(1)}, at::kLong)));
            head += since(start);
        }
        report({{"item", "moments"},
                {"layers_seconds", plain},
                {"head_seconds", head},
                {"moments_seconds", summed},
                {"ratio", summed / (plain + head)},
                {"ratio_to_layers", summed / plain}});
    }

    void gram()
    {
        const c10::InferenceMode guard;
        const ModelShape& shape = model->shape();
        const PreparedPlan identity = model->identity();
        ProfileData data;
        data.shape = shape;
        data.collected = {"counts", "gram"};
        std::vector<double> plain, built;
        std::vector<at::Tensor> hidden = embedded();
        for (int l = 0; l < model->layerCount(); ++l) {
            const LayerShape& layer = shape.layers[static_cast<std::size_t>(l)];
            const auto collectors = makeCollectors({.model = *model,
                                                    .shape = layer,
                                                    .hiddenSize = shape.hiddenSize,
                                                    .listLength = layer.router.topK + 5,
                                                    .wants = [](std::string_view id) { return id == "counts" || id == "gram"; }});
            ObserverGroup group;
            for (const auto& collector : collectors)
                group.add(collector.get());
            Watch with(&group);
            Watch without(nullptr);
            std::int64_t position = 0;
            for (at::Tensor& state : hidden) {
                const std::int64_t rows = state.size(0) * state.size(1);
                WindowBatch batch;
                batch.positions.resize(static_cast<std::size_t>(rows));
                batch.sampledRows.resize(static_cast<std::size_t>(rows));
                std::iota(batch.positions.begin(), batch.positions.end(), position);
                std::iota(batch.sampledRows.begin(), batch.sampledRows.end(), 0);
                position += rows;
                for (const auto& collector : collectors)
                    collector->beginBatch(batch);
                require(model->layer(l, state, identity, &with));
                state = require(model->layer(l, state, identity, &without));
            }
            plain.push_back(without.seconds);
            built.push_back(with.seconds);
            LayerProfile profile;
            profile.layer = layer.index;
            profile.experts = layer.experts;
            for (const auto& collector : collectors)
                collector->finish(profile);
            data.layers.push_back(std::move(profile));
        }
        const LayerProfile& layer = data.layers.front();
        const RouterShape& router = shape.layers.front().router;
        auto start = Clock::now();
        const GramEvaluator evaluator(layer, router);
        const double tables = since(start);
        std::vector<double> leaveOneOut;
        for (int i = 0; i < 5; ++i) {
            start = Clock::now();
            evaluator.leaveOneOut();
            leaveOneOut.push_back(since(start));
        }
        const CompressionPlan base = CompressionPlan::identity(shape);
        std::vector<int> keep;
        for (const LayerShape& each : shape.layers)
            keep.push_back(each.experts * 3 / 4);
        std::vector<double> search;
        std::int64_t evaluated = 0;
        double uncovered = 0;
        for (int i = 0; i < 3; ++i) {
            start = Clock::now();
            const auto selections = require(selectLayers(data, "genetic", {}, keep, base, {.threads = settings.options.threads}, job));
            search.push_back(since(start));
            evaluated = 0;
            for (const Selection& selection : selections) {
                evaluated += selection.evaluated;
                uncovered = std::max(uncovered, selection.uncoveredShare);
            }
        }
        report({{"item", "gram"},
                {"plain_moe_seconds", plain},
                {"gram_moe_seconds", built},
                {"ratio", median(built) / median(plain)},
                {"tables_seconds", tables},
                {"leave_one_out_seconds", median(leaveOneOut)},
                {"genetic_seconds_all_layers", median(search)},
                {"candidates", evaluated},
                {"milliseconds_per_candidate_and_thread",
                 1e3 * median(search) * std::min(settings.options.threads, model->layerCount()) / static_cast<double>(evaluated)},
                {"uncovered_share", uncovered},
                {"tokens", tokens}});
    }

    void suffix()
    {
        const std::vector<int> all = firstWindows(static_cast<int>(windows.rows.size()));
        const CompressionPlan identity = CompressionPlan::identity(model->shape());
        Evaluator evaluator(*model, windows, std::int64_t{4} << 30);
        auto start = Clock::now();
        require(evaluator.run(identity, all, {}, job));
        const double full = since(start);
        Json edits = Json::array();
        for (const LayerShape& layer : model->shape().layers) {
            if (!layer.moe) continue;
            ExpertSet kept;
            for (int e = 1; e < layer.experts; ++e)
                kept.push_back(e);
            const CompressionPlan edited = require(identity.withKept(model->shape(), layer.index, kept));
            start = Clock::now();
            require(evaluator.run(edited, all, {}, job));
            edits.push_back({{"layer", layer.index}, {"seconds", since(start)}});
        }
        report({{"item", "suffix"}, {"full_seconds", full}, {"edits", edits}});
    }
};

}  // namespace

int main(int argc, char** argv)
{
    const Settings settings = parse(argc, argv);
    if (settings.model.empty() || settings.items.empty()) {
        std::fprintf(stderr, "engine_bench MODEL [options] load|first|forward|statistics|gram|moments|suffix|curves ...\n");
        return 2;
    }
    const auto start = Clock::now();
    Bench bench;
    bench.settings = settings;
    bench.checkpoint = require(Checkpoint::open(settings.model));
    bench.model = require(MoeModel::create(bench.checkpoint, settings.options));
    bench.windows = windowsFor(settings, bench.checkpoint->shape().vocabularySize);
    bench.tokens = static_cast<std::int64_t>(bench.windows.rows.size()) * settings.length;
    if (settings.items.front() == "first") {
        bench.first(start);
    } else {
        // Everything once, on a few tokens: loads the weights where they stay.
        const c10::InferenceMode guard;
        const PreparedPlan identity = bench.model->identity();
        at::Tensor ids = at::zeros({1, 8}, at::kLong);
        at::Tensor hidden = require(bench.model->embed(ids));
        double first = 0;
        for (int l = 0; l < bench.model->layerCount(); ++l) {
            hidden = require(bench.model->layer(l, hidden, identity));
            if (l == 0) first = since(start);
        }
        require(bench.model->tokenNll(hidden, ids));
        report({{"item", "load"}, {"first_layer_seconds", first}, {"seconds", since(start)}});
    }
    for (const std::string& item : settings.items) {
        if (item == "forward") bench.forward();
        if (item == "statistics") bench.profile("statistics", {"counts", "ean", "reap"}, 0);
        if (item == "curves") bench.profile("curves", {"counts", "curves"}, 0);
        if (item == "gram") bench.gram();
        if (item == "moments") bench.moments();
        if (item == "suffix") bench.suffix();
    }
    return 0;
}
