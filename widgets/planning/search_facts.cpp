#include "planning/search_facts.h"

#include "look/format.h"
#include "planning/search_panel.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kNllDecimals = 4;

QString tr(const char* text, const char* disambiguation = nullptr, int n = -1) { return SearchPanel::tr(text, disambiguation, n); }

QString gainText(double gain)
{
    return std::abs(gain) < 0.0005 ? QStringLiteral("0\u00A0%")
                                   : format::signedNumber(100 * gain, std::abs(gain) < 0.0995 ? 1 : 0) + QStringLiteral("\u00A0%");
}

QString layersText(const std::vector<int>& layers)
{
    if (layers.empty()) return {};
    return layers.size() == 1 ? QString::number(layers.front()) : QStringLiteral("%1–%2").arg(layers.front()).arg(layers.back());
}

QString namedLayers(const std::vector<int>& layers)
{
    return (layers.size() == 1 ? tr("layer %1") : tr("layers %1")).arg(layersText(layers));
}

QString nll(double value) { return format::number(value, kNllDecimals); }

QString changeOf(const MeasuredPlan& plan)
{
    return tr("Δ %1").arg(format::signedNumber(plan.change, kNllDecimals) + QStringLiteral(" ± ") +
                          format::number(plan.error, kNllDecimals));
}

SearchBar barOf(const LayerShape& layer)
{
    SearchBar bar;
    bar.id = layer.index;
    bar.label = QString::number(layer.index);
    bar.name = tr("Layer %1").arg(layer.index);
    return bar;
}

}  // namespace

QString SearchFactsOf::layerLine(int layer) const
{
    return (compact_ ? tr("layer %1 against %2") : tr("layer %1 against the choice by %2")).arg(layer).arg(state_.scoreName);
}

QString SearchFactsOf::byScore() const { return tr("by %1").arg(state_.scoreName); }

SearchFacts SearchFactsOf::layer(int layer) const
{
    SearchFacts facts;
    const auto it = state_.layers.find(layer);
    if (it == state_.layers.end()) {
        facts.number = tr("starting");
        facts.muted = true;
        facts.line = state_.stage == "allocate" ? tr("sharing the target between the layers") : tr("reading the profile");
        if (!state_.running()) {
            facts.number = tr("no layer searched");
            facts.line.clear();
        }
        return facts;
    }
    const LayerSearch& search = it->second;
    if (const auto gain = search.gain()) {
        facts.number = gainText(*gain);
        facts.line = layerLine(layer);
    } else if (search.trace.size() > 1 && search.trace.front() > 0) {
        facts.number = gainText(search.trace.back() / search.trace.front() - 1);
        facts.line = tr("layer %1 since its first generation").arg(layer);
    } else {
        facts.number = tr("layer %1").arg(layer);
        facts.line = tr("%1 of %2 layers searched").arg(state_.layersFinished()).arg(state_.layersToSearch());
    }
    QString where = QString::number(layer);
    if (search.finished)
        where += format::kDot + tr("searched");
    else if (search.generation >= 0)
        where += format::kDot + (state_.generations > 0 && !search.enumerated
                                     ? tr("generation %1").arg(format::countOf(search.generation, state_.generations))
                                     : tr("step %1").arg(format::count(search.generation)));
    facts.rows.emplace_back(tr("layer"), where);
    if (!search.kept.empty())
        facts.rows.emplace_back(
            tr("kept"), format::keptOf(static_cast<int>(search.kept.size()), state_.shape.layers[static_cast<std::size_t>(layer)].experts));
    if (search.best) facts.rows.emplace_back(tr("best error"), format::score(*search.best));
    if (search.reference) facts.rows.emplace_back(byScore(), format::score(*search.reference));
    if (search.evaluated > 0) facts.rows.emplace_back(tr("candidates"), format::count(search.evaluated));
    if (state_.stochastic)
        facts.rows.emplace_back(tr("seed"),
                                QString::number(state_.recipe.seed) + (compact_ ? QString() : format::kDot + tr("same result every time")));
    return facts;
}

SearchFacts SearchFactsOf::plans() const
{
    SearchFacts facts;
    const auto& plans = state_.measured;
    if (plans.empty()) {
        facts.number = state_.running() ? tr("starting") : tr("nothing measured");
        facts.muted = true;
        facts.line = state_.alone.empty()
                         ? (state_.curves > 0 ? tr("error curves of %n layer(s) so far", nullptr, state_.curves) : QString())
                         : tr("%n layer(s) measured alone", nullptr, static_cast<int>(state_.alone.size()));
        return facts;
    }
    std::size_t best = 0;
    for (std::size_t i = 0; i < plans.size(); ++i)
        if (plans[i].accepted) best = i;
    const QString measured = tr("%n plan(s)", nullptr, static_cast<int>(plans.size()));
    if (plans[best].rise) {
        facts.number = format::signedNumber(*plans[best].rise, kNllDecimals);
        facts.line = compact_ ? tr("NLL of the best against dense") : tr("NLL per token of the best against the dense model");
        facts.rows.emplace_back(tr("best"), plans[best].name);
        facts.rows.emplace_back(tr("NLL"), nll(plans[best].nll));
        facts.rows.emplace_back(tr("measured"), measured);
        if (plans.back().passes) facts.rows.emplace_back(tr("passes"), tr("%1 of the model").arg(format::number(*plans.back().passes, 1)));
    } else {
        const double gain = plans[best].nll - plans.front().nll;
        facts.number = best == 0 ? QStringLiteral("0") : format::signedNumber(gain, kNllDecimals);
        facts.line = tr("NLL per token against \"%1\"").arg(plans.front().name);
        facts.rows.emplace_back(tr("best"), plans[best].name);
        facts.rows.emplace_back(tr("NLL"), nll(plans[best].nll));
        facts.rows.emplace_back(tr("first"), nll(plans.front().nll));
        facts.rows.emplace_back(tr("measured"), measured);
    }
    const MeasuredPlan& last = plans.back();
    if (plans.size() > 1) {
        facts.rows.emplace_back(tr("last"), last.name);
        facts.rows.emplace_back(QString(), changeOf(last) + format::kDot + (last.accepted ? tr("taken") : tr("not taken")));
    }
    return facts;
}

SearchFacts SearchFactsOf::block(int shown) const
{
    SearchFacts facts;
    if (shown < 0) {
        facts.number = state_.running() ? tr("starting") : tr("no block tried");
        facts.muted = true;
        facts.line = tr("blocks of %n layer(s)", nullptr, state_.recipe.blockSize);
        return facts;
    }
    const SearchBlock& block = state_.blocks[static_cast<std::size_t>(shown)];
    if (const auto gain = block.gain()) facts.number = gainText(*gain);
    facts.line =
        (compact_ ? tr("block %1 against own best sets") : tr("block %1 against every layer's own best")).arg(layersText(block.layers));
    facts.rows.emplace_back(tr("block"), namedLayers(block.layers) + format::kDot + format::countOf(shown + 1, state_.blocksToTry()));
    QStringList choice;
    for (const int set : block.choice)
        choice << QString::number(set + 1);
    facts.rows.emplace_back(tr("best trial"), tr("sets %1").arg(choice.join(QStringLiteral(", "))));
    facts.rows.emplace_back(tr("error"), format::score(block.best));
    if (!block.trials.empty()) facts.rows.emplace_back(tr("own best"), format::score(block.trials.front()));
    facts.rows.emplace_back(tr("trials"), format::count(static_cast<std::int64_t>(block.trials.size())));
    return facts;
}

SearchCurve SearchFactsOf::layerCurve(int layer) const
{
    SearchCurve line;
    line.title = layer >= 0 ? tr("layer output error, layer %1").arg(layer) : tr("layer output error");
    line.xLabel = state_.generations > 0 ? tr("generation") : tr("step");
    line.bestName = tr("best");
    if (const auto it = state_.layers.find(layer); it != state_.layers.end()) {
        // A layer with few sets has all of them tried, in steps.
        if (it->second.enumerated) line.xLabel = tr("step");
        line.best = it->second.trace;
        if (line.best.empty() && it->second.best) line.best = {*it->second.best};
        line.reference = it->second.reference;
        line.referenceName = byScore();
        line.most = it->second.finished ? 0 : state_.generations;
        line.growing = !it->second.finished && state_.running();
    }
    return line;
}

SearchBars SearchFactsOf::layerBars(int current) const
{
    SearchBars all;
    all.title = (compact_ ? tr("error against %1") : tr("error against the choice by %1")).arg(state_.scoreName);
    all.xLabel = tr("layer");
    all.current = current;
    for (const LayerShape& shape : state_.shape.layers) {
        if (shape.experts == 0) continue;
        SearchBar bar = barOf(shape);
        const auto it = state_.layers.find(shape.index);
        if (!state_.searches(shape.index)) {
            bar.state = SearchBar::State::Locked;
            bar.words = tr("locked, not searched");
        } else if (it == state_.layers.end()) {
            bar.words = state_.running() ? tr("not searched yet") : tr("not searched");
        } else {
            bar.state = it->second.finished ? SearchBar::State::Done
                        : state_.running()  ? SearchBar::State::Running
                                            : SearchBar::State::Waiting;
            bar.value = it->second.gain();
            bar.words = bar.value         ? tr("%1 against the choice by %2").arg(gainText(*bar.value), state_.scoreName)
                        : it->second.best ? tr("error %1").arg(format::score(*it->second.best))
                                          : tr("searching");
            if (!it->second.finished && !state_.running()) bar.words = tr("not finished");
        }
        all.bars.push_back(std::move(bar));
    }
    return all;
}

SearchCurve SearchFactsOf::planCurve() const
{
    const auto& plans = state_.measured;
    // Losses on different windows cannot be compared, differences to the dense model on the same windows can.
    const bool rises =
        !plans.empty() && std::all_of(plans.begin(), plans.end(), [](const MeasuredPlan& plan) { return plan.rise && plan.passes; });
    const auto value = [&](const MeasuredPlan& plan) { return rises ? *plan.rise : plan.nll; };
    SearchCurve line;
    line.title = rises ? tr("rise of NLL per token of measured plans") : tr("NLL per token of measured plans");
    line.xLabel = rises ? tr("passes of the model") : tr("plan");
    line.first = rises ? 0 : 1;
    line.bestName = tr("best");
    line.decimals = kNllDecimals;
    line.growing = state_.running();
    double best = std::nan("");
    for (const MeasuredPlan& plan : plans) {
        if (plan.accepted || std::isnan(best)) best = value(plan);
        line.best.push_back(best);
        if (rises) line.xs.push_back(*plan.passes);
        QString words = plan.name + format::kDot + (rises ? format::signedNumber(*plan.rise, kNllDecimals) : nll(plan.nll));
        if (plan.error > 0) words += format::kDot + changeOf(plan);
        if (plan.windows > 0) words += format::kDot + tr("%n window(s)", nullptr, plan.windows);
        words += format::kDot + (plan.accepted ? tr("taken") : tr("not taken"));
        line.points.push_back({value(plan), plan.error, plan.accepted, words});
    }
    if (!plans.empty() && !rises) {
        line.reference = plans.front().nll;
        line.referenceName = tr("first");
    }
    return line;
}

SearchBars SearchFactsOf::planBars(int current) const
{
    SearchBars all;
    all.title = compact_ ? tr("NLL, one layer pruned") : tr("rise of NLL, one layer pruned");
    all.xLabel = tr("layer");
    all.percent = false;
    for (const LayerShape& shape : state_.shape.layers) {
        if (shape.experts == 0) continue;
        SearchBar bar = barOf(shape);
        if (!state_.searches(shape.index)) {
            bar.state = SearchBar::State::Locked;
            bar.words = tr("locked");
        } else if (const auto it = state_.alone.find(shape.index); it != state_.alone.end()) {
            bar.state = SearchBar::State::Done;
            bar.value = it->second;
            bar.words = tr("NLL %1 when only this layer is pruned").arg(format::signedNumber(it->second, kNllDecimals));
        } else {
            bar.words = tr("not measured alone");
        }
        all.bars.push_back(std::move(bar));
    }
    all.current = current;
    return all;
}

SearchCurve SearchFactsOf::blockCurve(int shown) const
{
    SearchCurve line;
    line.title = tr("error behind the block");
    line.xLabel = tr("trial");
    line.first = 1;
    line.bestName = tr("best");
    if (shown >= 0) {
        const SearchBlock& block = state_.blocks[static_cast<std::size_t>(shown)];
        line.title = tr("error behind the block, %1").arg(namedLayers(block.layers));
        double best = std::nan("");
        for (const double loss : block.trials) {
            const bool taken = std::isnan(best) || loss < best;
            if (taken) best = loss;
            line.best.push_back(best);
            line.points.push_back({loss, 0, taken, format::score(loss)});
        }
        if (!block.trials.empty()) {
            line.reference = block.trials.front();
            line.referenceName = tr("own best");
        }
    }
    return line;
}

SearchBars SearchFactsOf::blockBars(int current) const
{
    SearchBars all;
    all.title = compact_ ? tr("error against own best") : tr("error against every layer's own best");
    all.xLabel = tr("block");
    all.current = current;
    const int count = std::max(state_.blocksToTry(), static_cast<int>(state_.blocks.size()));
    for (int i = 0; i < count; ++i) {
        SearchBar bar;
        bar.id = i;
        bar.label = QString::number(i + 1);
        bar.name = tr("Block %1").arg(i + 1);
        if (i < static_cast<int>(state_.blocks.size())) {
            const SearchBlock& block = state_.blocks[static_cast<std::size_t>(i)];
            bar.state = SearchBar::State::Done;
            bar.value = block.gain();
            bar.words = namedLayers(block.layers) + (bar.value ? format::kDot + gainText(*bar.value) : QString());
        } else {
            bar.state =
                i == static_cast<int>(state_.blocks.size()) && state_.running() ? SearchBar::State::Running : SearchBar::State::Waiting;
            bar.words = tr("not tried yet");
        }
        all.bars.push_back(std::move(bar));
    }
    return all;
}

namespace
{

QString pplText(double nll) { return format::number(std::exp(nll), 3); }

// As RecoverJudged calls them, in the order of bars.
struct Judged {
    const char* what;
    QString name;
};
std::vector<Judged> judgedNames()
{
    return {{.what = "dense", .name = tr("dense")},
            {.what = "before", .name = tr("before")},
            {.what = "after", .name = tr("after")},
            {.what = "control", .name = tr("control")}};
}

}  // namespace

SearchFacts SearchFactsOf::recovery() const
{
    SearchFacts facts;
    const auto& judged = state_.judged;
    if (const auto after = judged.find("after"); after != judged.end()) {
        facts.number = pplText(after->second);
        facts.line = compact_ ? tr("perplexity afterwards, kept apart") : tr("perplexity on windows kept apart");
    } else {
        facts.number = state_.running() ? tr("recovering") : tr("not finished");
        facts.muted = true;
        facts.line = tr("new numbers in the old shapes");
    }
    for (const Judged& each : judgedNames())
        if (const auto it = judged.find(each.what); it != judged.end()) facts.rows.emplace_back(each.name, pplText(it->second));
    if (state_.recovery.empty()) return facts;
    const RecoverPoint& last = state_.recovery.back();
    facts.rows.emplace_back(tr("step"),
                            last.layer ? tr("%1, layer %2").arg(format::count(last.step)).arg(*last.layer) : format::count(last.step));
    facts.rows.emplace_back(tr("loss"), format::score(last.loss));
    return facts;
}

SearchCurve SearchFactsOf::recoveryCurve() const
{
    SearchCurve line;
    line.xLabel = tr("step");
    line.first = 1;
    line.growing = state_.running();
    const bool measured =
        std::any_of(state_.recovery.begin(), state_.recovery.end(), [](const RecoverPoint& point) { return point.gateNll.has_value(); });
    line.title = measured ? (compact_ ? tr("perplexity, kept apart") : tr("perplexity on windows kept apart")) : tr("loss of the recovery");
    line.bestName = measured ? tr("best") : tr("loss");
    if (measured) line.decimals = 3;
    for (const RecoverPoint& point : state_.recovery) {
        if (measured && !point.gateNll) continue;
        const double y = measured ? std::exp(*point.gateNll) : point.loss;
        const bool better = line.best.empty() || y < line.best.back();
        // Of losses layer by layer none is better than another.
        line.best.push_back(measured && !better ? line.best.back() : y);
        line.xs.push_back(point.step);
        QString words = tr("loss %1").arg(format::score(point.loss));
        if (point.layer) words += format::kDot + tr("layer %1").arg(*point.layer);
        if (point.gateNll) words += format::kDot + tr("perplexity %1").arg(pplText(*point.gateNll));
        line.points.push_back({y, 0, !measured || better, words});
    }
    if (!measured) return line;
    if (const auto before = state_.judged.find("before"); before != state_.judged.end()) {
        line.reference = std::exp(before->second);
        line.referenceName = tr("before");
    }
    for (const char* what : {"control", "dense"})
        if (const auto it = state_.judged.find(what); it != state_.judged.end()) {
            line.other = std::exp(it->second);
            line.otherName = QLatin1String(what) == QLatin1String("control") ? tr("control") : tr("dense");
            break;
        }
    return line;
}

SearchBars SearchFactsOf::recoveryBars() const
{
    SearchBars all;
    all.title = compact_ ? tr("perplexity, kept apart") : tr("perplexity on windows kept apart");
    all.percent = false;
    int id = 0;
    for (const Judged& each : judgedNames()) {
        SearchBar bar;
        bar.id = id++;
        bar.label = each.name;
        bar.name = each.name;
        if (const auto it = state_.judged.find(each.what); it != state_.judged.end()) {
            bar.state = SearchBar::State::Done;
            bar.value = std::exp(it->second);
            bar.words = tr("perplexity %1").arg(pplText(it->second));
        } else if (QLatin1String(each.what) == QLatin1String("control")) {
            continue;
        } else {
            bar.state = state_.running() ? SearchBar::State::Running : SearchBar::State::Waiting;
            bar.words = tr("not measured yet");
        }
        all.bars.push_back(std::move(bar));
    }
    return all;
}

QString SearchFactsOf::status() const
{
    const QString at = format::time(state_.ended, QDateTime::currentDateTime());
    switch (state_.phase) {
        case SearchState::Phase::None:
        case SearchState::Phase::Running:
            return {};
        case SearchState::Phase::Cancelling:
            return tr("stopping");
        case SearchState::Phase::Finished:
            return tr("finished %1").arg(at) + format::kDot + format::duration(state_.seconds);
        case SearchState::Phase::Stopped:
            return tr("stopped %1, best so far kept").arg(at) +
                   (state_.planReachesTarget ? QString() : QStringLiteral(", ") + tr("without ranks"));
        case SearchState::Phase::Cancelled:
            return tr("cancelled %1, the plan is unchanged").arg(at);
        case SearchState::Phase::Failed:
            return tr("broke off %1, the plan is unchanged").arg(at);
    }
    return {};
}

}  // namespace espalier
