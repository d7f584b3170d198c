// The one table of structures: how each is written and read, checked, what it costs and which exports can hold it. One file per structure
// in this folder, one line in form_table.cpp. No torch: how a form computes is core/model/form_builder, which tensors stand for it is
// core/export. Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/matrix_form.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class LayerPlan;
struct ExpertBody;

// The linear map that a form stands in for, as the checkpoint stores it.
struct SlotShape {
    std::int64_t out = 0;
    std::int64_t in = 0;
    int sourceRank = 0;       // the checkpoint itself stores factors of this rank; 0 = a whole matrix
    bool sourceBias = false;  // .. and a bias beside them
    bool ownBias = false;     // the family adds a bias, which is no part of any form; a form's own bias takes its place
};

// What a form takes. Numbers at the checkpoint's own dtype are counted, not weighed: bytes per number are the caller's to know.
struct Footprint {
    std::int64_t sourceNumbers = 0;  // stored in the source's dtype
    std::int64_t packedBytes = 0;    // everything that is stored otherwise: bits, scales, masks
    std::int64_t parameters = 0;     // numbers that say something, whatever they are stored in
    std::int64_t multiplyAdds = 0;   // per token
};

// Kinds of export (see core/export): a set.
struct FlavourSet {
    bool stock = false;          // loads in any runtime that knows the architecture
    bool factored = false;       // with modelling code of ours
    bool reconstructed = false;  // multiplied out to whole matrices again
};

struct FormRules {
    std::string_view id;     // "low-rank"
    std::string_view title;  // for people
    Json (*write)(const Structure& structure);
    // Keys other than its own are for the caller to refuse: `keys` names them.
    Result<Structure> (*read)(const Json& json);
    std::vector<std::string_view> keys;
    // `where` names the matrix ("layer 3, expert 7, up") for the error. Errors: plan.rank_beyond_break_even, plan.invalid.
    Status (*check)(const SlotShape& slot, const MatrixForm& form, const std::string& where);
    Footprint (*footprint)(const SlotShape& slot, const MatrixForm& form);
    FlavourSet (*fits)(const MatrixForm& form);
};

extern const FormRules kDenseRules;
extern const FormRules kLowRankRules;
extern const FormRules kBaseDeltaRules;
extern const FormRules kMaskedRules;

// In the order of the alternatives of Structure.
const std::vector<const FormRules*>& formTable();
const FormRules& rulesOf(const MatrixForm& form);

Json toJson(const MatrixForm& form);
// Errors: plan.unknown_content (an id or key that is not known, by name), plan.invalid. `where` for people.
Result<MatrixForm> matrixFormFromJson(const Json& json, const std::string& where);

// What Storage costs for so many numbers of a matrix with so many rows along the output.
Footprint storedNumbers(std::int64_t numbers, std::int64_t rows, const Storage& storage);
// Of U [out, r] V [r, in] in bands.
Footprint bandNumbers(const SlotShape& slot, const std::vector<Band>& bands);
Json toJson(const std::vector<Band>& bands);
Result<std::vector<Band>> bandsFromJson(const Json& json, std::string_view where);
Status checkBands(const SlotShape& slot, const std::vector<Band>& bands, const std::string& where);

// What of a form of an expert's matrix can be said and neither run nor exported here yet, for people ("merged experts without stored
// values"); empty: nothing. The one list that model and exporter ask.
std::string formRefusal(const ExpertBody& expert, const MatrixForm& form);
// What of a layer that is merged with another one can be said and not run, for people; empty: nothing, or it is not merged.
std::string mergeRefusal(const LayerPlan& content);
// The same of a linear map beside the experts.
std::string linearRefusal(const MatrixForm& form);

// plan.unknown_content for the first key of `object` that is not among `known`; `where` for people.
Status onlyKnownKeys(const Json& object, const std::vector<std::string_view>& known, std::string_view where);

}  // namespace espalier
