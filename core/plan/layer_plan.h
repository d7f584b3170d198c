// What a plan says about one decoder layer: state, not steps. Three things are kept apart: a router *column* (a row of the router that
// exists), the *body* behind it (what computes), and the number that an expert gets in an export. A constant keeps the column and changes
// the body; merging leads several columns to one body; pruning removes both. Immutable values; any thread.
#pragma once

#include "base/sha256.h"
#include "plan/matrix_form.h"
#include "plan/skip_rule.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace espalier
{

using ExpertSet = std::vector<int>;     // original expert ids, ascending
using ChannelSet = std::vector<int>;    // of an expert's intermediate width, ascending
using RankTriple = std::array<int, 3>;  // gate, up, down; 0 = dense

constexpr std::array<std::string_view, 3> kMatrixNames = {"gate", "up", "down"};

// Which halves of a decoder layer run. The residual stream passes a half that does not run unchanged.
enum class LayerRun { Whole, Skipped, AttentionOnly, ExpertsOnly };

// This layer's weights are alpha of its own and 1 - alpha of layer `layer`'s. `alignment`: how neurons were matched; empty: as they lie.
struct LayerMerge {
    int layer = 0;
    int alphaMillionths = 0;
    std::string alignment;
    bool operator==(const LayerMerge&) const = default;
};

// An expert that computes. `sources`: itself, or several that were merged (their values are stored). `channels`: empty = all.
struct ExpertBody {
    ExpertSet sources;
    ChannelSet channels;
    std::array<MatrixForm, 3> matrices;  // gate, up, down
    bool operator==(const ExpertBody&) const = default;
};

// A vector v_e [H] in place of an expert (MoNE, arXiv 2507.00390): the mean of its outputs over the tokens routed to it, plain or by the
// square of their routing weights (which minimises the sum of w^2 |f_e - v|^2). Read from the profile the plan names, or stored.
enum class ConstantKind { Mean, Weighted };
struct ConstantBody {
    ConstantKind kind = ConstantKind::Mean;
    ValuesId values;
    bool operator==(const ConstantBody&) const = default;
};

using Body = std::variant<ExpertBody, ConstantBody>;

// The router row of `expert` leads to bodies[body].
struct RouterColumn {
    int expert = 0;
    int body = 0;
    bool operator==(const RouterColumn&) const = default;
};

// A linear map beside the routed experts: "self_attn.q_proj", "mlp.shared_expert.down_proj", "mlp.gate_proj".
using LinearId = std::string;

inline bool isOfAttention(std::string_view linear) { return linear.starts_with("self_attn."); }

class LayerPlan
{
public:
    // Everything that is hashed. Canonical: columns ascending by expert, bodies in the order in which columns first lead to them, none
    // without a column; linears ascending by name, none that is as the checkpoint has it; a layer whose experts do not run has no columns.
    struct Content {
        LayerRun run = LayerRun::Whole;
        std::optional<LayerMerge> mergedFrom;
        std::vector<std::pair<LinearId, MatrixForm>> linears;
        std::vector<RouterColumn> columns;
        std::vector<Body> bodies;
        std::optional<int> topK;  // only where it differs from the model's
        std::optional<SkipRule> skip;
        ValuesId router;  // stored router rows
        bool operator==(const Content&) const = default;
    };

    LayerPlan();  // of a dense layer: as it is
    explicit LayerPlan(Content content);
    // What version 1 can say. `ranks`: per kept expert, or empty.
    explicit LayerPlan(ExpertSet kept, const std::vector<RankTriple>& ranks = {}, std::optional<int> topK = {});
    static LayerPlan allOf(int experts);

    const Content& content() const noexcept { return m_content; }
    LayerRun run() const noexcept { return m_content.run; }
    std::optional<int> topK() const noexcept { return m_content.topK; }
    bool runsAttention() const noexcept { return run() == LayerRun::Whole || run() == LayerRun::AttentionOnly; }
    bool runsExperts() const noexcept { return run() == LayerRun::Whole || run() == LayerRun::ExpertsOnly; }

    // Experts whose row of the router stays: the kept ones and the constants.
    const ExpertSet& columns() const noexcept { return m_columns; }
    // Experts whose row leads to weights, their own or those they were merged into: all columns but the constants.
    const ExpertSet& kept() const noexcept { return m_kept; }
    // Experts that became constants.
    ExpertSet constants() const;
    bool keeps(int expert) const;
    bool isConstant(int expert) const;
    const Body* bodyOf(int expert) const;  // null where the expert was dropped; as long as this value lives

    // Ranks of plain low-rank forms per kept expert; empty where no matrix has one.
    const std::vector<RankTriple>& ranks() const noexcept { return m_ranks; }
    RankTriple ranksOf(int expert) const;  // zeros where it is dense or dropped

    bool isPlain() const noexcept { return m_plain; }  // version 1 can say it
    bool isWhole(int experts) const;                   // nothing happens to a layer with so many experts
    // Numbers beyond the checkpoint's are read from a profile or a values file.
    bool needsFactors() const noexcept { return m_attentionFactors || m_expertFactors; }
    bool attentionNeedsFactors() const noexcept { return m_attentionFactors; }
    bool expertsNeedFactors() const noexcept { return m_expertFactors; }
    bool needsConstants() const noexcept;

    // SHA-256 (32 bytes) of a canonical binary encoding of the two halves: what reaches attention, and what reaches the experts.
    const Sha256Digest& attentionDigest() const noexcept { return m_attentionDigest; }
    const Sha256Digest& expertsDigest() const noexcept { return m_expertsDigest; }

    bool operator==(const LayerPlan& other) const { return m_content == other.m_content; }

private:
    void derive();

    Content m_content;
    ExpertSet m_columns;
    ExpertSet m_kept;
    std::vector<RankTriple> m_ranks;
    bool m_plain = true;
    bool m_attentionFactors = false;
    bool m_expertFactors = false;
    Sha256Digest m_attentionDigest{};
    Sha256Digest m_expertsDigest{};
};

}  // namespace espalier
