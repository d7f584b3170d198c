#include "plan/compression_plan.h"

#include "plan/plan_rules.h"

#include <algorithm>
#include <charconv>
#include <mutex>

namespace espalier
{

namespace
{

const LayerPlan& noLayer()
{
    static const LayerPlan none;
    return none;
}

// Canonical JSON of version 1, written directly: its SHA-256 is the identity of every plan that version 1 can say.
class CanonicalText
{
public:
    CanonicalText& add(std::string_view text)
    {
        m_text += text;
        return *this;
    }
    CanonicalText& add(int value)
    {
        char digits[12];
        const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
        m_text.append(digits, end);
        return *this;
    }
    CanonicalText& addQuoted(const std::string& value)
    {
        m_text += canonicalJson(Json(value));
        return *this;
    }
    template <typename List>
    CanonicalText& addList(const List& list)
    {
        m_text += '[';
        bool first = true;
        for (const int value : list) {
            if (!first) m_text += ',';
            first = false;
            add(value);
        }
        m_text += ']';
        return *this;
    }
    const std::string& text() const { return m_text; }

private:
    std::string m_text;
};

void addLayer(CanonicalText& text, const LayerPlan& layer, int index)
{
    text.add("{\"kept\":").addList(layer.kept()).add(",\"layer\":").add(index);
    if (!layer.ranks().empty()) {
        text.add(",\"ranks\":[");
        bool first = true;
        for (const RankTriple& triple : layer.ranks()) {
            if (!first) text.add(",");
            first = false;
            text.addList(triple);
        }
        text.add("]");
    }
    if (layer.topK()) text.add(",\"top_k\":").add(*layer.topK());
    text.add("}");
}

void addFactors(CanonicalText& text, const FactorSettings& factors)
{
    // Ranks without a named method are plain SVD (planFromJson reads them so): one plan, one hash.
    text.add("\"factors\":{\"method\":").addQuoted(factors.method.empty() ? "svd" : factors.method);
    if (!factors.profileSha256.empty()) text.add(",\"profile_sha256\":").addQuoted(factors.profileSha256);
    text.add("}");
}

std::string_view bytesOf(const Sha256Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

}  // namespace

struct CompressionPlan::Data {
    std::vector<std::shared_ptr<const LayerPlan>> layers;
    std::vector<int> experts;  // of the model, per layer: which layers are whole
    FactorSettings factors;
    std::string constantsProfile;
    PlanModel model;
    PlanMarks marks;
    std::vector<ValuesInfo> values;

    // Computed when first asked for; a copy of the rest does not take them along.
    struct Identity {
        std::once_flag hashOnce;
        std::string hash;
        std::once_flag entriesOnce;
        std::vector<Sha256Digest> entries;  // [2 * layer + half]
    };
    std::shared_ptr<Identity> identity = std::make_shared<Identity>();

    bool whole(std::size_t layer) const { return layers[layer]->isWhole(experts[layer]); }
    bool any(bool (*is)(const LayerPlan&)) const
    {
        return std::any_of(layers.begin(), layers.end(), [&](const auto& layer) { return is(*layer); });
    }
    std::string firstHash() const;
    std::string secondHash() const;
    std::vector<Sha256Digest> chain() const;
};

std::string CompressionPlan::Data::firstHash() const
{
    CanonicalText text;
    text.add("{");
    // Factor settings decide nothing while every matrix is dense.
    if (any([](const LayerPlan& layer) { return layer.needsFactors(); })) {
        addFactors(text, factors);
        text.add(",");
    }
    text.add("\"layers\":[");
    bool first = true;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (whole(i)) continue;
        if (!first) text.add(",");
        first = false;
        addLayer(text, *layers[i], static_cast<int>(i));
    }
    text.add("],\"version\":1}");
    return sha256Hex(text.text());
}

std::string CompressionPlan::Data::secondHash() const
{
    CanonicalText text;
    text.add("espalier plan 2\n");
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (whole(i)) continue;
        text.add(static_cast<int>(i)).add(bytesOf(layers[i]->attentionDigest())).add(bytesOf(layers[i]->expertsDigest()));
    }
    if (any([](const LayerPlan& layer) { return layer.needsFactors(); })) addFactors(text, factors);
    if (any([](const LayerPlan& layer) { return layer.needsConstants(); })) text.add("constants").addQuoted(constantsProfile);
    return sha256Hex(text.text());
}

std::vector<Sha256Digest> CompressionPlan::Data::chain() const
{
    CanonicalText settings;
    addFactors(settings, factors);
    std::vector<Sha256Digest> entries;
    entries.reserve(2 * layers.size() + 1);
    Sha256Digest state{};
    std::string link;
    const auto step = [&](const Sha256Digest& digest, bool needsFactors, bool needsConstants) {
        link.assign(bytesOf(state));
        link += bytesOf(digest);
        if (needsFactors) link += settings.text();
        if (needsConstants) link += constantsProfile;
        state = sha256(link);
    };
    for (const auto& layer : layers) {
        entries.push_back(state);
        step(layer->attentionDigest(), layer->attentionNeedsFactors(), false);
        entries.push_back(state);
        step(layer->expertsDigest(), layer->expertsNeedFactors(), layer->needsConstants());
    }
    entries.push_back(state);
    return entries;
}

CompressionPlan CompressionPlan::of(Data data)
{
    data.identity = std::make_shared<Data::Identity>();
    return CompressionPlan(std::make_shared<const Data>(std::move(data)));
}

CompressionPlan CompressionPlan::identity(const ModelShape& shape)
{
    Data data;
    std::map<int, std::shared_ptr<const LayerPlan>> bySize;
    for (const LayerShape& layer : shape.layers) {
        std::shared_ptr<const LayerPlan>& node = bySize[layer.experts];
        if (!node) node = std::make_shared<const LayerPlan>(LayerPlan::allOf(layer.experts));
        data.layers.push_back(node);
        data.experts.push_back(layer.experts);
    }
    return of(std::move(data));
}

int CompressionPlan::layerCount() const noexcept { return m_data ? static_cast<int>(m_data->layers.size()) : 0; }

const LayerPlan& CompressionPlan::layer(int layer) const
{
    return m_data && layer >= 0 && layer < layerCount() ? *m_data->layers[static_cast<std::size_t>(layer)] : noLayer();
}

const FactorSettings& CompressionPlan::factors() const
{
    static const FactorSettings none;
    return m_data ? m_data->factors : none;
}

const std::string& CompressionPlan::constantsProfile() const
{
    static const std::string none;
    return m_data ? m_data->constantsProfile : none;
}

const PlanModel& CompressionPlan::model() const
{
    static const PlanModel none;
    return m_data ? m_data->model : none;
}

const PlanMarks& CompressionPlan::marks() const
{
    static const PlanMarks none;
    return m_data ? m_data->marks : none;
}

const std::vector<ValuesInfo>& CompressionPlan::values() const
{
    static const std::vector<ValuesInfo> none;
    return m_data ? m_data->values : none;
}

bool CompressionPlan::isLocked(int layer) const { return std::binary_search(marks().locked.begin(), marks().locked.end(), layer); }

bool CompressionPlan::isFixed(int layerIndex) const { return isLocked(layerIndex) || !layer(layerIndex).runsExperts(); }

const ExpertSet& CompressionPlan::protectedExperts(int layer) const
{
    static const ExpertSet none;
    const auto at = marks().protectedExperts.find(layer);
    return at == marks().protectedExperts.end() ? none : at->second;
}

bool CompressionPlan::isWholeLayer(int layerIndex) const
{
    return !m_data || layerIndex < 0 || layerIndex >= layerCount() || m_data->whole(static_cast<std::size_t>(layerIndex));
}

bool CompressionPlan::isIdentity(const ModelShape& shape) const
{
    for (int i = 0; i < layerCount(); ++i)
        if (!layer(i).isWhole(shape.layers[static_cast<std::size_t>(i)].experts)) return false;
    return true;
}

bool CompressionPlan::keeps(int layerIndex, int expert) const { return layer(layerIndex).keeps(expert); }

int CompressionPlan::keptExperts() const
{
    int total = 0;
    for (int i = 0; i < layerCount(); ++i)
        total += static_cast<int>(layer(i).kept().size());
    return total;
}

int CompressionPlan::runningLayers() const
{
    int total = 0;
    for (int i = 0; i < layerCount(); ++i)
        total += layer(i).run() != LayerRun::Skipped ? 1 : 0;
    return total;
}

bool CompressionPlan::hasRanks() const
{
    return m_data && m_data->any([](const LayerPlan& layer) { return !layer.ranks().empty(); });
}

bool CompressionPlan::needsFactors() const
{
    return m_data && m_data->any([](const LayerPlan& layer) { return layer.needsFactors(); });
}

bool CompressionPlan::hasConstants() const
{
    return m_data && m_data->any([](const LayerPlan& layer) { return !layer.constants().empty(); });
}

bool CompressionPlan::needsConstants() const
{
    return m_data && m_data->any([](const LayerPlan& layer) { return layer.needsConstants(); });
}

bool CompressionPlan::isPlain() const
{
    return !m_data || !m_data->any([](const LayerPlan& layer) { return !layer.isPlain(); });
}

int CompressionPlan::firstDifference(const CompressionPlan& other) const
{
    const int count = std::min(layerCount(), other.layerCount());
    const bool sameFactors = factors() == other.factors();
    const bool sameConstants = constantsProfile() == other.constantsProfile();
    for (int i = 0; i < count; ++i) {
        const LayerPlan& a = layer(i);
        const LayerPlan& b = other.layer(i);
        if (a.attentionDigest() != b.attentionDigest() || a.expertsDigest() != b.expertsDigest()) return i;
        if (!sameFactors && a.needsFactors()) return i;
        if (!sameConstants && a.needsConstants()) return i;
    }
    return count;
}

Result<CompressionPlan> CompressionPlan::with(const ModelShape& shape, int layerIndex, LayerPlan plan) const
{
    if (layerIndex < 0 || layerIndex >= layerCount())
        return badInput("plan.unknown_layer", "layer " + std::to_string(layerIndex), "The model has no such layer.");
    ESPALIER_CHECK_OK(checkLayerPlan(shape, layerIndex, plan));
    Data data = *m_data;
    data.layers[static_cast<std::size_t>(layerIndex)] = std::make_shared<const LayerPlan>(std::move(plan));
    return of(std::move(data));
}

Result<CompressionPlan> CompressionPlan::withKept(const ModelShape& shape, int layerIndex, const ExpertSet& kept) const
{
    const LayerPlan& now = layer(layerIndex);
    LayerPlan::Content next = now.content();
    next.columns.clear();
    next.bodies.clear();
    ExpertSet columns = kept;
    for (const int expert : now.constants())
        if (!std::binary_search(kept.begin(), kept.end(), expert)) columns.push_back(expert);
    if (columns.size() != kept.size()) std::sort(columns.begin(), columns.end());
    std::map<const Body*, int> numbers;  // merged experts stay merged
    for (const int expert : columns) {
        const Body* body = now.bodyOf(expert);
        const bool returns =
            body == nullptr || (std::holds_alternative<ConstantBody>(*body) && std::binary_search(kept.begin(), kept.end(), expert));
        const int number = static_cast<int>(next.bodies.size());
        const int behind = returns ? number : numbers.emplace(body, number).first->second;
        next.columns.push_back({.expert = expert, .body = behind});
        if (behind == number)
            next.bodies.push_back(returns ? Body(ExpertBody{.sources = {expert}, .channels = {}, .matrices = {}}) : *body);
    }
    return with(shape, layerIndex, LayerPlan(std::move(next)));
}

Result<CompressionPlan> CompressionPlan::withRanks(const ModelShape& shape, int layerIndex, const std::vector<RankTriple>& ranks) const
{
    const LayerPlan& now = layer(layerIndex);
    ESPALIER_CHECK_OK(checkRankTriples(shape, layerIndex, now.kept().size(), ranks));
    LayerPlan::Content next = now.content();
    for (std::size_t i = 0; i < now.kept().size(); ++i) {
        const auto column = std::find_if(next.columns.begin(), next.columns.end(),
                                         [&](const RouterColumn& candidate) { return candidate.expert == now.kept()[i]; });
        auto& body = std::get<ExpertBody>(next.bodies[static_cast<std::size_t>(column->body)]);
        for (std::size_t m = 0; m < 3; ++m)
            if (const int rank = ranks.empty() ? 0 : ranks[i][m]; rank != body.matrices[m].plainRank())
                body.matrices[m] = MatrixForm::lowRank(rank);
    }
    return with(shape, layerIndex, LayerPlan(std::move(next)));
}

CompressionPlan CompressionPlan::withLocked(int layerIndex, bool locked) const
{
    PlanMarks next = marks();
    const auto at = std::lower_bound(next.locked.begin(), next.locked.end(), layerIndex);
    const bool was = at != next.locked.end() && *at == layerIndex;
    if (locked && !was) next.locked.insert(at, layerIndex);
    if (!locked && was) next.locked.erase(at);
    return withMarks(std::move(next));
}

CompressionPlan CompressionPlan::withProtected(int layerIndex, int expert, bool isProtected) const
{
    PlanMarks next = marks();
    ExpertSet& set = next.protectedExperts[layerIndex];
    const auto at = std::lower_bound(set.begin(), set.end(), expert);
    const bool was = at != set.end() && *at == expert;
    if (isProtected && !was) set.insert(at, expert);
    if (!isProtected && was) set.erase(at);
    if (set.empty()) next.protectedExperts.erase(layerIndex);
    return withMarks(std::move(next));
}

// What decides no number leaves the identity as it is: the copy shares it.
CompressionPlan CompressionPlan::withMarks(PlanMarks marks) const
{
    Data data = *m_data;
    data.marks = std::move(marks);
    return CompressionPlan(std::make_shared<const Data>(std::move(data)));
}

CompressionPlan CompressionPlan::withModel(PlanModel model) const
{
    Data data = *m_data;
    data.model = std::move(model);
    return CompressionPlan(std::make_shared<const Data>(std::move(data)));
}

CompressionPlan CompressionPlan::withValues(std::vector<ValuesInfo> values) const
{
    Data data = *m_data;
    data.values = std::move(values);
    return CompressionPlan(std::make_shared<const Data>(std::move(data)));
}

CompressionPlan CompressionPlan::withFactors(FactorSettings factors) const
{
    Data data = *m_data;
    data.factors = std::move(factors);
    return of(std::move(data));
}

CompressionPlan CompressionPlan::withConstantsProfile(std::string profileSha256) const
{
    Data data = *m_data;
    data.constantsProfile = std::move(profileSha256);
    return of(std::move(data));
}

const std::string& CompressionPlan::hash() const
{
    static const std::string empty = sha256Hex("");
    if (!m_data) return empty;
    Data::Identity& identity = *m_data->identity;
    std::call_once(identity.hashOnce, [&] { identity.hash = isPlain() ? m_data->firstHash() : m_data->secondHash(); });
    return identity.hash;
}

const Sha256Digest& CompressionPlan::entryDigest(int layerIndex, Half half) const
{
    static const Sha256Digest none{};
    if (!m_data) return none;
    Data::Identity& identity = *m_data->identity;
    std::call_once(identity.entriesOnce, [&] { identity.entries = m_data->chain(); });
    const auto at = 2 * static_cast<std::size_t>(std::clamp(layerIndex, 0, layerCount())) + (half == Half::Experts ? 1 : 0);
    return identity.entries[std::min(at, identity.entries.size() - 1)];
}

bool CompressionPlan::operator==(const CompressionPlan& other) const
{
    if (m_data == other.m_data) return true;
    return m_data && other.m_data && hash() == other.hash() && layerCount() == other.layerCount() && marks() == other.marks();
}

}  // namespace espalier
