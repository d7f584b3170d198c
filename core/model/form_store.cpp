#include "model/form_store.h"

#include "checkpoint/checkpoint.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace espalier
{

WeightMatrix FormStore::placed(const at::Tensor& rows) const
{
    return m_placement.portable ? WeightMatrix::plain(rows.to(m_placement.device, m_compute)) : WeightMatrix::packed(rows.to(m_compute));
}

Status FormStore::build(Entry& entry, const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    const FormBuilder& builder = builderOf(slot, form);
    ESPALIER_TRY(const FormTerms terms, builder.terms(context, slot, form, entry.basis));
    entry.linear = {};
    if (terms.weight.defined()) {
        if (terms.sharedAs.empty()) {
            entry.linear.weight = placed(terms.weight);
        } else {
            WeightMatrix& shared = m_shared[terms.sharedAs];
            if (!shared.defined()) {
                shared = placed(terms.weight);
                m_bytes += shared.bytes();
            }
            entry.linear.weight = shared;
        }
    }
    if (terms.u.defined()) {
        entry.linear.u = placed(terms.u);
        entry.linear.v = placed(terms.v);
    }
    if (terms.bias.defined()) entry.linear.bias = terms.bias.to(m_placement.device, m_compute);
    entry.form = form;
    if (!builder.keepsBasis) entry.basis.of = std::monostate();
    const std::int64_t own = terms.sharedAs.empty() ? entry.linear.weight.bytes() : 0;
    const std::int64_t bytes = entry.basis.bytes() + own + entry.linear.u.bytes() + entry.linear.v.bytes();
    m_bytes += bytes - entry.bytes;
    entry.bytes = bytes;
    m_builtBytes += bytes - entry.basis.bytes();
    return {};
}

Result<std::vector<Linear>> FormStore::linears(int layer, const FactorSource* factors, const FactorSources& given,
                                               std::span<const FormRequest> requests)
{
    const BuildContext context{*m_checkpoint, factors, given};
    const auto slotOf = [&](const FormRequest& request) {
        return MatrixSlot{layer, request.expert, request.matrix, request.linear, request.channels};
    };
    std::vector<Key> keys;
    keys.reserve(requests.size());
    std::vector<std::size_t> missing;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const FormRequest& request = requests[i];
        keys.push_back({layer, request.expert, request.matrix, request.linear,
                        builderOf(slotOf(request), *request.form).key(context, slotOf(request), *request.form)});
        const auto held = m_entries.find(keys.back());
        if (held != m_entries.end() && held->second.cutOnly && held->second.form != *request.form) {
            m_bytes -= held->second.bytes;
            m_entries.erase(held);
        }
        if (!m_entries.contains(keys.back())) missing.push_back(i);
    }

    std::vector<FormBasis> computed(missing.size());
    std::vector<std::optional<Error>> errors(missing.size());
    eachOnOneThread(missing.size(), [&](std::size_t i) {
        const c10::InferenceMode guard;
        const FormRequest& request = requests[missing[i]];
        auto basis = builderOf(slotOf(request), *request.form).basis(context, slotOf(request), *request.form);
        if (basis)
            computed[i] = std::move(basis).value();
        else
            errors[i] = basis.error();
    });
    for (std::size_t i = 0; i < missing.size(); ++i) {
        if (errors[i]) return *errors[i];
        m_entries[keys[missing[i]]].basis = std::move(computed[i]);
    }

    std::vector<Linear> result;
    result.reserve(requests.size());
    ++m_clock;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        Entry& entry = m_entries.at(keys[i]);
        entry.used = m_clock;
        if (entry.form != *requests[i].form) {
            if (Status built = build(entry, context, slotOf(requests[i]), *requests[i].form); !built.ok()) {
                m_bytes -= entry.bytes;
                m_entries.erase(keys[i]);
                return built.error();
            }
        }
        result.push_back(entry.linear);
    }
    shrink();
    return result;
}

Result<Linear> FormStore::stacked(int layer, const FactorSources& given, std::span<const FormRequest> requests)
{
    const BuildContext context{*m_checkpoint, nullptr, given};
    Key key{layer, -1, -1, {}, {}};
    for (const FormRequest& request : requests) {
        const MatrixSlot slot{layer, request.expert, request.matrix, request.linear};
        key.linear += request.linear + " ";
        key.variant += builderOf(*request.form).key(context, slot, *request.form) + "; ";
    }
    ++m_clock;
    Entry& entry = m_entries[key];
    entry.used = m_clock;
    if (!entry.linear.defined()) {
        std::vector<at::Tensor> rows;
        for (const FormRequest& request : requests) {
            const MatrixSlot slot{layer, request.expert, request.matrix, request.linear};
            const FormBuilder& builder = builderOf(*request.form);
            const auto one = [&]() -> Result<FormTerms> {
                ESPALIER_TRY(const FormBasis basis, builder.basis(context, slot, *request.form));
                return builder.terms(context, slot, *request.form, basis);
            };
            auto terms = one();
            if (!terms.ok()) {
                m_entries.erase(key);
                return terms.error();
            }
            rows.push_back(terms->weight);
        }
        entry.linear.weight = placed(at::cat(rows, 0));
        entry.bytes = entry.linear.weight.bytes();
        m_bytes += entry.bytes;
    }
    const Linear result = entry.linear;
    shrink();
    return result;
}

void FormStore::shrink()
{
    // A decomposition is of use for other ranks only. Those of the last call too: they may be all that is too much.
    while (m_bytes > m_budget) {
        auto oldest = m_entries.end();
        for (auto entry = m_entries.begin(); entry != m_entries.end(); ++entry)
            if (entry->second.form && entry->second.basis.bytes() > 0 &&
                (oldest == m_entries.end() || entry->second.used < oldest->second.used))
                oldest = entry;
        if (oldest == m_entries.end()) break;
        Entry& entry = oldest->second;
        m_bytes -= entry.basis.bytes();
        entry.bytes -= entry.basis.bytes();
        entry.basis.of = std::monostate();
        entry.cutOnly = true;
    }
    while (m_bytes > m_budget) {
        const auto oldest = std::min_element(m_entries.begin(), m_entries.end(),
                                             [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
        if (oldest == m_entries.end() || oldest->second.used == m_clock) break;
        m_bytes -= oldest->second.bytes;
        m_entries.erase(oldest);
    }
    // A base that no matrix held here refers to any more.
    for (auto shared = m_shared.begin(); shared != m_shared.end();) {
        const bool wanted = std::any_of(m_entries.begin(), m_entries.end(), [&](const auto& entry) {
            return entry.second.linear.weight.defined() && entry.second.linear.weight.sharesMemoryWith(shared->second);
        });
        if (!wanted) m_bytes -= shared->second.bytes();
        shared = wanted ? std::next(shared) : m_shared.erase(shared);
    }
}

void FormStore::release()
{
    m_entries.clear();
    m_shared.clear();
    m_bytes = 0;
}

}  // namespace espalier
