#include "html_report.h"

#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

std::string escape(std::string_view text)
{
    std::string safe;
    for (const char c : text) {
        switch (c) {
            case '&':
                safe += "&amp;";
                break;
            case '<':
                safe += "&lt;";
                break;
            case '>':
                safe += "&gt;";
                break;
            case '"':
                safe += "&quot;";
                break;
            default:
                safe += c;
        }
    }
    return safe;
}

// viridis, by nine of its colours.
std::string colour(double share)
{
    static constexpr std::array<std::array<int, 3>, 9> kStops = {{{68, 1, 84},
                                                                  {71, 44, 122},
                                                                  {59, 81, 139},
                                                                  {44, 113, 142},
                                                                  {33, 144, 141},
                                                                  {39, 173, 129},
                                                                  {92, 200, 99},
                                                                  {170, 220, 50},
                                                                  {253, 231, 37}}};
    const double at = std::clamp(share, 0.0, 1.0) * (kStops.size() - 1);
    const auto low = std::min(static_cast<std::size_t>(at), kStops.size() - 2);
    const double part = at - static_cast<double>(low);
    std::array<int, 3> rgb{};
    for (std::size_t i = 0; i < 3; ++i)
        rgb[i] = static_cast<int>(std::lround(kStops[low][i] + part * (kStops[low + 1][i] - kStops[low][i])));
    return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

struct Range {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();
    void take(double value)
    {
        if (!std::isfinite(value)) return;
        low = std::min(low, value);
        high = std::max(high, value);
    }
    double share(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

// Layers x experts. Values that are not finite are left blank; dropped experts are crossed out.
std::string heatmap(const ModelShape& shape, const CompressionPlan& plan, const std::vector<std::vector<double>>& rows,
                    std::string_view unit, bool crossDropped)
{
    int experts = 0;
    int layers = 0;
    Range range;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        ++layers;
        experts = std::max(experts, layer.experts);
        for (const double value : rows[static_cast<std::size_t>(layer.index)])
            range.take(value);
    }
    if (layers == 0 || !std::isfinite(range.low)) return "<p>Not measured.</p>\n";
    const int cell = std::clamp(900 / std::max(experts, 1), 6, 26);
    const int left = 40;
    std::string svg = fmt::format("<svg width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"layers by experts\">\n",
                                  left + experts * cell + 2, layers * cell + 18);
    int y = 0;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        svg +=
            fmt::format("<text x=\"{}\" y=\"{}\" class=\"axis\" text-anchor=\"end\">{}</text>\n", left - 6, y + cell * 3 / 4, layer.index);
        const auto& row = rows[static_cast<std::size_t>(layer.index)];
        for (int e = 0; e < layer.experts && e < static_cast<int>(row.size()); ++e) {
            const double value = row[static_cast<std::size_t>(e)];
            const bool kept = plan.keeps(layer.index, e);
            const int x = left + e * cell;
            svg += fmt::format(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>layer {}, expert {}: {}{}</title></rect>\n", x, y,
                cell - 1, cell - 1, std::isfinite(value) ? colour(range.share(value)) : "#e8e8e8", layer.index, e,
                std::isfinite(value) ? fmt::format("{:.4g}", value) : "none", kept ? "" : ", dropped");
            if (crossDropped && !kept)
                svg += fmt::format("<path d=\"M{} {}l{} {}m0 {}l{} {}\" stroke=\"#fff\" stroke-width=\"1.5\"/>\n", x + 1, y + 1, cell - 3,
                                   cell - 3, 3 - cell, 3 - cell, cell - 3);
        }
        y += cell;
    }
    svg += "</svg>\n";
    std::string bar = "<p class=\"scale\">";
    bar += fmt::format("{:.3g} ", range.low);
    for (int i = 0; i <= 20; ++i)
        bar += fmt::format("<span style=\"background:{}\"></span>", colour(i / 20.0));
    bar += fmt::format(" {:.3g}  {}</p>\n", range.high, escape(unit));
    return svg + bar;
}

// One polyline per series, common axes from zero.
std::string curves(const std::vector<std::pair<std::string, std::vector<double>>>& series, std::string_view xTitle, std::string_view yTitle)
{
    Range y;
    std::size_t length = 0;
    for (const auto& [name, values] : series) {
        length = std::max(length, values.size());
        for (const double value : values)
            y.take(value);
    }
    if (length < 2 || !std::isfinite(y.low)) return {};
    y.take(0);
    constexpr int kWidth = 620;
    constexpr int kHeight = 200;
    constexpr int kTop = 22;  // the title's line
    std::string svg = fmt::format("<svg width=\"{}\" height=\"{}\" role=\"img\">\n<path class=\"frame\" d=\"M50 {}v{}h{}\"/>\n",
                                  kWidth + 60, kHeight + kTop + 25, kTop, kHeight, kWidth);
    svg += fmt::format(
        "<text x=\"46\" y=\"{}\" class=\"axis\" text-anchor=\"end\">{:.3g}</text><text x=\"46\" y=\"{}\" class=\"axis\" "
        "text-anchor=\"end\">{:.3g}</text><text x=\"{}\" y=\"{}\" class=\"axis\" text-anchor=\"end\">{} ({})</text><text x=\"50\" "
        "y=\"13\" class=\"axis\">{}</text>\n",
        kTop + 8, y.high, kTop + kHeight, y.low, kWidth + 50, kTop + kHeight + 17, escape(xTitle), length - 1, escape(yTitle));
    for (std::size_t s = 0; s < series.size(); ++s) {
        std::string points;
        const auto& values = series[s].second;
        for (std::size_t i = 0; i < values.size(); ++i)
            if (std::isfinite(values[i]))
                points += fmt::format("{:.1f},{:.1f} ", 50 + kWidth * static_cast<double>(i) / static_cast<double>(length - 1),
                                      kTop + kHeight * (1 - y.share(values[i])));
        svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"><title>{}</title></polyline>\n",
                           points, colour(series.size() > 1 ? static_cast<double>(s) / static_cast<double>(series.size() - 1) * 0.9 : 0.4),
                           escape(series[s].first));
    }
    return svg + "</svg>\n";
}

std::string table(const std::vector<std::vector<std::string>>& rows)
{
    std::string html = "<table>\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
        html += "<tr>";
        for (const std::string& cell : rows[r])
            html += fmt::format("<{0}>{1}</{0}>", r == 0 ? "th" : "td", escape(cell));
        html += "</tr>\n";
    }
    return html + "</table>\n";
}

std::string section(std::string_view title, std::string_view body)
{
    return body.empty() ? std::string() : fmt::format("<h2>{}</h2>\n{}", escape(title), body);
}

std::string perplexitySection(const ReportFacts& facts)
{
    if (facts.before.empty()) return "<p>Not measured.</p>\n";
    const PerplexityEstimate before = perplexity(facts.before);
    const PerplexityEstimate after = perplexity(facts.after);
    const PairedDifference change = pairedDifference(facts.after, facts.before);
    std::string html =
        table({{"", "perplexity", "standard error", "loss per token (nats)"},
               {"before", fmt::format("{:.4f}", before.ppl), fmt::format("{:.4f}", before.pplError), fmt::format("{:.5f}", before.nll)},
               {"after", fmt::format("{:.4f}", after.ppl), fmt::format("{:.4f}", after.pplError), fmt::format("{:.5f}", after.nll)}});
    html += fmt::format(
        "<p>Paired on {} windows of {} tokens: the loss per token changes by <b>{:+.5f} &plusmn; {:.5f}</b> nats, the perplexity by a "
        "factor of {:.4f} (95 %: {:.4f} to {:.4f}). Text: {}, {} scored tokens, computed in {}.</p>\n",
        change.windows, facts.windowLength, change.nll, change.se, change.pplRatio, change.low, change.high, escape(facts.text),
        before.tokens, escape(facts.dtype));
    if (facts.calibrationText)
        html +=
            "<p class=\"note\">This is the text that the plan was made on, so the numbers flatter it. Give a text of its own with "
            "<code>--validation</code>.</p>\n";
    else
        html +=
            "<p class=\"note\">Looks at a text from the command line are not counted as openings of a locked one in any session: numbers "
            "on a "
            "text that many plans were compared on flatter the plan that was chosen.</p>\n";
    return html;
}

std::string layersSection(const ReportFacts& facts)
{
    std::vector<std::vector<std::string>> rows = {{"layer", "kept", "of", "mean rank (gate, up, down)", "dense matrices"}};
    for (const LayerShape& layer : facts.shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& plan = facts.plan.layer(layer.index);
        std::array<double, 3> sum{};
        std::array<int, 3> factored{};
        int dense = 0;
        for (const RankTriple& ranks : plan.ranks())
            for (std::size_t m = 0; m < 3; ++m) {
                sum[m] += ranks[m];
                factored[m] += ranks[m] > 0;
                dense += ranks[m] == 0;
            }
        std::string mean = "dense";
        if (!plan.ranks().empty() && factored != std::array<int, 3>{}) {
            mean.clear();
            for (std::size_t m = 0; m < 3; ++m)
                mean += fmt::format("{}{}", m ? ", " : "", factored[m] ? fmt::format("{:.0f}", sum[m] / factored[m]) : "dense");
        }
        rows.push_back({std::to_string(layer.index), std::to_string(plan.kept().size()), std::to_string(layer.experts), mean,
                        plan.ranks().empty() ? std::to_string(3 * plan.kept().size()) : std::to_string(dense)});
    }
    return table(rows);
}

std::string ranksSection(const ReportFacts& facts)
{
    if (!facts.plan.hasRanks()) return {};
    std::vector<std::vector<double>> rows(facts.shape.layers.size());
    for (const LayerShape& layer : facts.shape.layers) {
        if (!layer.moe) continue;
        auto& row = rows[static_cast<std::size_t>(layer.index)];
        row.assign(static_cast<std::size_t>(layer.experts), std::numeric_limits<double>::quiet_NaN());
        const LayerPlan& plan = facts.plan.layer(layer.index);
        for (std::size_t i = 0; i < plan.ranks().size(); ++i) {
            const RankTriple& ranks = plan.ranks()[i];
            if (ranks != RankTriple{0, 0, 0}) row[static_cast<std::size_t>(plan.kept()[i])] = (ranks[0] + ranks[1] + ranks[2]) / 3.0;
        }
    }
    std::string html = heatmap(facts.shape, facts.plan, rows, "mean rank of the three matrices; grey: dense or dropped", false);
    if (!facts.profile || !facts.profile->has("curves")) return html;
    // What is left of the output's energy, by rank: mean over the kept experts of a layer.
    std::vector<std::pair<std::string, std::vector<double>>> series;
    for (const LayerProfile& layer : facts.profile->layers) {
        if (layer.experts == 0) continue;
        std::vector<double> mean;
        int used = 0;
        for (const int e : facts.plan.layer(layer.layer).kept())
            for (int matrix = 0; matrix < 3; ++matrix) {
                const std::vector<double> curve = layer.errorCurve(e, matrix);
                if (curve.empty() || !(curve.front() > 0)) continue;
                mean.resize(std::max(mean.size(), curve.size()), 0.0);
                for (std::size_t r = 0; r < curve.size(); ++r)
                    mean[r] += curve[r] / curve.front();
                ++used;
            }
        for (double& value : mean)
            value /= std::max(used, 1);
        if (used > 0) series.emplace_back(fmt::format("layer {}", layer.layer), std::move(mean));
    }
    return html + curves(series, "rank", "share of the energy that is lost, mean over the kept matrices of a layer");
}

std::string searchSection(const ReportFacts& facts)
{
    std::string html;
    for (const PlanStage& stage : facts.stages) {
        if (stage.name == "allocate" && stage.detail.contains("trace")) {
            std::vector<std::vector<std::string>> rows = {{"measured plan", "windows", "rise of the loss per token",
                                                           "against the one ahead", "standard error", "passes until then", "taken"}};
            for (const Json& step : stage.detail["trace"])
                rows.push_back({step.value("name", ""), std::to_string(step.value("windows", 0)),
                                fmt::format("{:+.4f}", step.value("rise", 0.0)), fmt::format("{:+.4f}", step.value("change", 0.0)),
                                fmt::format("{:.4f}", step.value("error", 0.0)), fmt::format("{:.1f}", step.value("passes", 0.0)),
                                step.value("accepted", false) ? "yes" : ""});
            html += "<h3>Allocation, measured</h3>\n" + table(rows);
        }
        if (stage.name == "select") {
            std::vector<std::pair<std::string, std::vector<double>>> series;
            for (const Json& layer : stage.detail.value("layers", Json::array())) {
                const double norm = layer.value("output_norm", 0.0);
                std::vector<double> trace;
                for (const Json& value : layer.value("trace", Json::array()))
                    trace.push_back(value.is_number() && norm > 0 ? value.get<double>() / norm : std::numeric_limits<double>::quiet_NaN());
                series.emplace_back(fmt::format("layer {}", layer.value("layer", 0)), std::move(trace));
            }
            const std::string picture = curves(series, "generation or step", "best relative error of the layer's output so far");
            if (!picture.empty())
                html += fmt::format("<h3>Search in every layer ({})</h3>\n", escape(stage.detail.value("method", ""))) + picture;
        }
        if (stage.name == "receptive-field") {
            std::vector<std::vector<std::string>> rows = {
                {"layers", "trials", "relative error, all first choices", "relative error, chosen", "choice"}};
            for (const Json& block : stage.detail.value("blocks", Json::array())) {
                const double norm = block.value("norm_reference_output", 0.0);
                const Json& trials = block["trials"];
                const auto relative = [&](double loss) { return norm > 0 ? fmt::format("{:.5f}", loss / norm) : std::string("0"); };
                rows.push_back({block["moe_layers"].dump(), std::to_string(trials.size()),
                                trials.empty() ? "" : relative(trials[0].value("loss", 0.0)), relative(block["best"].value("loss", 0.0)),
                                block["best"]["choice"].dump()});
            }
            html += "<h3>Choice by blocks</h3>\n" + table(rows);
        }
    }
    return html;
}

std::string sizesSection(const ReportFacts& facts)
{
    const auto percent = [](std::int64_t now, std::int64_t then) {
        return then > 0 ? fmt::format("{:.2f} %", 100.0 * static_cast<double>(now) / static_cast<double>(then)) : std::string();
    };
    return table({{"", "before", "after", ""},
                  {"size of the weights", formatBytes(facts.dense.bytes), formatBytes(facts.cost.bytes),
                   percent(facts.cost.bytes, facts.dense.bytes)},
                  {"parameters", formatCount(facts.dense.parameters), formatCount(facts.cost.parameters),
                   percent(facts.cost.parameters, facts.dense.parameters)},
                  {"parameters of experts", formatCount(facts.dense.expertParameters), formatCount(facts.cost.expertParameters),
                   percent(facts.cost.expertParameters, facts.dense.expertParameters)},
                  {facts.cost.activeAtMost ? "active parameters per token, at most" : "active parameters per token",
                   formatCount(facts.dense.activeParameters), formatCount(facts.cost.activeParameters),
                   percent(facts.cost.activeParameters, facts.dense.activeParameters)}});
}

std::string taskSection(const ReportFacts& facts)
{
    if (!facts.tasks) return {};
    const auto number = [](const Json& json, const std::string& key, bool sign) -> std::string {
        if (!json.contains(key) || !json[key].is_number()) return {};
        const double value = json[key].get<double>();
        const Json error = json.value(key + "_stderr", Json());
        const std::string shown = sign ? fmt::format("{:+.4f}", value) : fmt::format("{:.4f}", value);
        return error.is_number() ? fmt::format("{} \u00b1 {:.4f}", shown, error.get<double>()) : shown;
    };
    std::vector<std::vector<std::string>> rows = {
        {"task", "questions", "accuracy", "by length (acc_norm)", "change of the accuracy, same questions"}};
    for (const auto& [name, task] : (*facts.tasks)["tasks"].items())
        rows.push_back({name, std::to_string(task.value("items", 0)), number(task, "acc", false), number(task, "acc_norm", false),
                        number(task.value("delta", Json::object()), "acc", true)});
    if (rows.size() > 2)
        rows.push_back({"mean", "", number(*facts.tasks, "mean", false), "",
                        (*facts.tasks)["delta"].is_object() ? number((*facts.tasks)["delta"], "mean", true) : std::string()});
    return table(rows) +
           "<p class=\"note\">Contexts, choices and accuracies as lm-evaluation-harness 0.4 has them. The mean counts every task "
           "alike.</p>\n";
}

std::string speedSection(const ReportFacts& facts)
{
    if (!facts.speed) return {};
    const auto row = [](const std::string& what, const SpeedMeasurement::Phase& phase) {
        return std::vector<std::string>{what, fmt::format("{:.1f}", phase.dense), fmt::format("{:.1f}", phase.plan),
                                        fmt::format("{:.2f}x ({:.2f} to {:.2f})", phase.ratio, phase.low, phase.high)};
    };
    const SpeedMeasurement& speed = *facts.speed;
    return fmt::format("<p><b>{}, measured here.</b></p>\n", speedWords(speed.prefill)) +
           table({{"", "dense, tokens per second", "this plan", "ratio"},
                  row(fmt::format("a prompt of {} tokens", speed.prefill.tokens), speed.prefill),
                  row(fmt::format("{} tokens behind it", speed.decode.tokens), speed.decode)}) +
           fmt::format("<p class=\"note\">Medians of {} rounds in turn, in {} on {} threads of the machine that this was made on.</p>\n",
                       speed.rounds, speed.dtype, speed.threads);
}

std::string verificationSection(const ReportFacts& facts)
{
    if (!facts.verification) return {};
    std::vector<std::vector<std::string>> rows = {{"check", "holds", "detail"}};
    for (const Json& check : facts.verification->value("checks", Json::array()))
        rows.push_back({check.value("name", ""), check.value("holds", false) ? "yes" : "NO", check.value("detail", "")});
    return table(rows);
}

}  // namespace

std::string htmlReport(const ReportFacts& facts)
{
    std::string html = fmt::format(R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{0}, compressed</title>
<style>
body {{ font: 15px/1.5 "Inter", "DejaVu Sans", sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd; }} h3 {{ font-size: 1em; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15em .9em .15em 0; text-align: left; font-variant-numeric: tabular-nums; }}
th {{ font-weight: 600; color: #666; }} .axis {{ font-size: 11px; fill: #666; }} .frame {{ fill: none; stroke: #bbb; }}
.scale span {{ display: inline-block; width: 9px; height: 10px; }} .scale, .note {{ color: #666; font-size: 13px; }} code {{ font-size: 13px; }}
</style></head><body>
<h1>{0}, compressed</h1>
<p>{1} of {2} experts kept, {3:.2f} % of the experts' parameters removed. Plan <code>{4}</code>.</p>
)",
                                   escape(facts.model), facts.plan.keptExperts(), facts.shape.totalExperts(),
                                   facts.cost.expertParametersRemoved() * 100, facts.plan.hash().substr(0, 12));
    html += section("Perplexity", perplexitySection(facts));
    html += section("Tasks", taskSection(facts));
    html += section("Speed", speedSection(facts));
    html += section("Size", sizesSection(facts));
    html += section("Importance", heatmap(facts.shape, facts.plan, facts.importance.values.rows,
                                          facts.importance.title + ", " + facts.importance.unit + "; crossed: dropped", true));
    html += section("Budgets", layersSection(facts));
    html += section("Search", searchSection(facts));
    html += section("Ranks", ranksSection(facts));
    html += section("The export, reopened and compared", verificationSection(facts));
    std::vector<std::vector<std::string>> times = {{"stage", "time"}};
    for (const auto& [name, seconds] : facts.seconds)
        times.push_back({name, formatSeconds(seconds)});
    html += section("Time", table(times));
    std::string warnings;
    for (const std::string& warning : facts.warnings)
        warnings += fmt::format("<li>{}</li>\n", escape(warning));
    if (!warnings.empty()) html += section("Warnings", "<ul>\n" + warnings + "</ul>\n");
    std::string how = fmt::format("<pre>{}</pre>\n", escape(facts.recipe.dump(2)));
    if (facts.profile)
        how = fmt::format("<p>Calibration: {} tokens in {} windows of {}, {} (SHA-256 of the tokens {}).</p>\n", facts.profile->tokens,
                          facts.profile->windows, facts.profile->windowLength, escape(facts.profile->source),
                          facts.profile->textSha256.substr(0, 12)) +
              how;
    html += section("How it was made", how);
    return html + "<p class=\"note\">Espalier " ESPALIER_VERSION "</p>\n</body></html>\n";
}

}  // namespace espalier
