#include "plan/layer_plan.h"

#include <algorithm>

namespace espalier
{

namespace
{

// The canonical binary encoding that layers are told apart by: little-endian integers, texts and lists behind their length.
class Encoding
{
public:
    void add(int value)
    {
        const auto bits = static_cast<std::uint32_t>(value);
        for (int shift = 0; shift < 32; shift += 8)
            m_bytes += static_cast<char>((bits >> shift) & 255);
    }
    void add(const std::string& text)
    {
        add(static_cast<int>(text.size()));
        m_bytes += text;
    }
    void add(const std::vector<int>& list)
    {
        add(static_cast<int>(list.size()));
        for (const int value : list)
            add(value);
    }
    void add(const std::vector<Band>& bands)
    {
        add(static_cast<int>(bands.size()));
        for (const Band& band : bands) {
            add(band.rank);
            add(band.bits);
        }
    }
    void add(const MatrixForm& form)
    {
        add(static_cast<int>(form.structure.index()));
        if (const auto* low = std::get_if<LowRank>(&form.structure)) {
            add(low->bands);
            add(low->bias ? 1 : 0);
        } else if (const auto* delta = std::get_if<BaseDelta>(&form.structure)) {
            add(delta->base);
            add(delta->bands);
        } else if (const auto* masked = std::get_if<Masked>(&form.structure)) {
            add(masked->pattern.kept);
            add(masked->pattern.of);
            add(masked->pattern.keptMillionths);
        }
        add(form.storage.bits);
        add(form.storage.group);
        add(static_cast<int>(form.storage.scheme));
        add(form.values);
    }
    void add(const Body& body)
    {
        add(static_cast<int>(body.index()));
        if (const auto* expert = std::get_if<ExpertBody>(&body)) {
            add(expert->sources);
            add(expert->channels);
            for (const MatrixForm& matrix : expert->matrices)
                add(matrix);
        } else if (const auto* constant = std::get_if<ConstantBody>(&body)) {
            add(static_cast<int>(constant->kind));
            add(constant->values);
        }
    }
    Sha256Digest digest() const { return sha256(m_bytes); }

private:
    std::string m_bytes;
};

void addLinears(Encoding& encoding, const LayerPlan::Content& content, bool attention)
{
    for (const auto& [name, form] : content.linears) {
        if (isOfAttention(name) != attention) continue;
        encoding.add(name);
        encoding.add(form);
    }
}

void addMerge(Encoding& encoding, const LayerPlan::Content& content)
{
    encoding.add(content.mergedFrom ? 1 : 0);
    if (!content.mergedFrom) return;
    encoding.add(content.mergedFrom->layer);
    encoding.add(content.mergedFrom->alphaMillionths);
    encoding.add(content.mergedFrom->alignment);
}

Sha256Digest attentionDigestOf(const LayerPlan::Content& content, bool runs)
{
    Encoding encoding;
    encoding.add(runs ? 1 : 0);
    addMerge(encoding, content);
    addLinears(encoding, content, true);
    return encoding.digest();
}

Sha256Digest expertsDigestOf(const LayerPlan::Content& content, bool runs)
{
    Encoding encoding;
    encoding.add(runs ? 1 : 0);
    addMerge(encoding, content);
    addLinears(encoding, content, false);
    encoding.add(content.topK.value_or(0));
    encoding.add(content.skip ? 1 + static_cast<int>(content.skip->kind) : 0);
    encoding.add(content.skip ? content.skip->thresholdMillionths : 0);
    encoding.add(content.router);
    encoding.add(static_cast<int>(content.columns.size()));
    for (const RouterColumn& column : content.columns) {
        encoding.add(column.expert);
        encoding.add(column.body);
    }
    encoding.add(static_cast<int>(content.bodies.size()));
    for (const Body& body : content.bodies)
        encoding.add(body);
    return encoding.digest();
}

bool isPlainBody(const Body& body, int expert)
{
    const auto* own = std::get_if<ExpertBody>(&body);
    return own && own->sources == ExpertSet{expert} && own->channels.empty() &&
           std::all_of(own->matrices.begin(), own->matrices.end(), [](const MatrixForm& form) { return form.isPlain(); });
}

}  // namespace

LayerPlan::LayerPlan() { derive(); }

LayerPlan::LayerPlan(Content content) : m_content(std::move(content)) { derive(); }

LayerPlan::LayerPlan(ExpertSet kept, const std::vector<RankTriple>& ranks, std::optional<int> topK)
{
    m_content.topK = topK;
    m_content.columns.reserve(kept.size());
    m_content.bodies.reserve(kept.size());
    for (std::size_t i = 0; i < kept.size(); ++i) {
        m_content.columns.push_back({.expert = kept[i], .body = static_cast<int>(i)});
        ExpertBody body{.sources = {kept[i]}, .channels = {}, .matrices = {}};
        if (i < ranks.size())
            for (std::size_t m = 0; m < 3; ++m)
                body.matrices[m] = MatrixForm::lowRank(ranks[i][m]);
        m_content.bodies.emplace_back(std::move(body));
    }
    derive();
}

LayerPlan LayerPlan::allOf(int experts)
{
    ExpertSet all(static_cast<std::size_t>(experts));
    for (int e = 0; e < experts; ++e)
        all[static_cast<std::size_t>(e)] = e;
    return LayerPlan(std::move(all));
}

void LayerPlan::derive()
{
    const Content& c = m_content;
    m_plain = c.run == LayerRun::Whole && !c.mergedFrom && c.linears.empty() && !c.skip && c.router.empty();
    bool ranked = false;
    for (const RouterColumn& column : c.columns) {
        m_columns.push_back(column.expert);
        const auto at = static_cast<std::size_t>(column.body);
        m_plain = m_plain && isPlainBody(c.bodies[at], column.expert);
        const auto* body = std::get_if<ExpertBody>(&c.bodies[at]);
        if (!body) continue;
        m_kept.push_back(column.expert);
        RankTriple ranks{};
        for (std::size_t m = 0; m < 3; ++m) {
            ranks[m] = body->matrices[m].plainRank();
            m_expertFactors = m_expertFactors || body->matrices[m].needsFactors();
        }
        ranked = ranked || ranks != RankTriple{};
        m_ranks.push_back(ranks);
    }
    if (!ranked) m_ranks.clear();
    for (const auto& [name, form] : c.linears) {
        bool& half = isOfAttention(name) ? m_attentionFactors : m_expertFactors;
        half = half || form.needsFactors();
    }
    m_attentionDigest = attentionDigestOf(c, runsAttention());
    m_expertsDigest = expertsDigestOf(c, runsExperts());
}

ExpertSet LayerPlan::constants() const
{
    ExpertSet set;
    for (const RouterColumn& column : m_content.columns)
        if (std::holds_alternative<ConstantBody>(m_content.bodies[static_cast<std::size_t>(column.body)])) set.push_back(column.expert);
    return set;
}

bool LayerPlan::keeps(int expert) const { return std::binary_search(m_kept.begin(), m_kept.end(), expert); }

const Body* LayerPlan::bodyOf(int expert) const
{
    const auto at = std::lower_bound(m_content.columns.begin(), m_content.columns.end(), expert,
                                     [](const RouterColumn& column, int wanted) { return column.expert < wanted; });
    if (at == m_content.columns.end() || at->expert != expert) return nullptr;
    return &m_content.bodies[static_cast<std::size_t>(at->body)];
}

bool LayerPlan::isConstant(int expert) const
{
    const Body* body = bodyOf(expert);
    return body && std::holds_alternative<ConstantBody>(*body);
}

RankTriple LayerPlan::ranksOf(int expert) const
{
    if (m_ranks.empty()) return {};
    const auto at = std::lower_bound(m_kept.begin(), m_kept.end(), expert);
    return at == m_kept.end() || *at != expert ? RankTriple{} : m_ranks[static_cast<std::size_t>(at - m_kept.begin())];
}

bool LayerPlan::isWhole(int experts) const
{
    return m_plain && m_ranks.empty() && !m_content.topK && static_cast<int>(m_kept.size()) == experts;
}

bool LayerPlan::needsConstants() const noexcept
{
    return std::any_of(m_content.bodies.begin(), m_content.bodies.end(), [](const Body& body) {
        const auto* constant = std::get_if<ConstantBody>(&body);
        return constant && constant->values.empty();
    });
}

}  // namespace espalier
