// Which tensors stand for a form of a matrix, how they are compared when an export is verified, and what config.json says of them. How they
// are read back is core/checkpoint's (expert()), by the same names. Private to core/export.
#pragma once

#include "model/form_builder.h"
#include "plan/compression_plan.h"
#include "plan/matrix_form.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace espalier
{

enum class FormPart {
    Weight,  // the dense term
    U,       // of U V
    V,
    Bias,
    Product,  // the sum of all terms as one matrix, rounded once more
};

struct FormTensor {
    FormPart part = FormPart::Weight;
    std::string_view suffix;  // behind "..experts.j.up_proj": ".weight", ".U", ".V", ".bias"
    std::vector<std::int64_t> shape;
};

// Of a matrix [out,in] that is not as the checkpoint has it. `multipliedOut`: of the reconstructed flavour. U, V and bias follow each
// other.
std::vector<FormTensor> formTensors(const MatrixForm& form, std::int64_t out, std::int64_t in, bool multipliedOut);
at::Tensor partOf(const FormTerms& terms, FormPart part);

enum class Comparison {
    Bytes,    // as it was read
    Rounded,  // recomputed: up to rounding
    Product,  // U with the V behind it: another processor may turn singular vectors otherwise, what counts is the product
};
Comparison comparisonOf(FormPart part);

// What the "espalier" object says of the bodies of a layer: column j of the export stands for expert columns()[j].
struct DescribedColumn {
    int owner = 0;  // column under which the weights are stored
    bool constant = false;
    RankTriple ranks{};
    std::array<bool, 3> biases{};
};
// Linear maps beside the experts that are factors in a factored export of the layer, and whether they have a bias, the family's or their
// own.
struct DescribedLinear {
    LinearId name;
    int rank = 0;
    bool bias = false;
};
std::vector<DescribedLinear> factoredLinears(const LayerShape& shape, const LayerPlan& plan);

// The plan's rule, else the checkpoint's; none where it skips nothing, or where no expert runs.
std::optional<SkipRule> skipRuleOf(const LayerShape& shape, const LayerPlan& plan);

// Width of the expert behind every column, where one is narrower than the layer's; else empty. That of a constant is the layer's.
std::vector<int> widthsOf(const LayerShape& shape, const LayerPlan& plan);

std::vector<DescribedColumn> describeColumns(const LayerShape& shape, const LayerPlan& plan);

}  // namespace espalier
