// A values file as any program writes it, by hand.
#pragma once

#include "base/sha256.h"
#include "plan/layer_plan.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace espalier::test
{

// One fp32 tensor.
inline std::string valuesBytes(const std::string& name, const std::vector<float>& numbers)
{
    std::string header = R"({"__metadata__":{"espalier.values":"1","made_by":"{}"},")" + name + R"(":{"dtype":"F32","shape":[)" +
                         std::to_string(numbers.size()) + R"(],"data_offsets":[0,)" + std::to_string(numbers.size() * sizeof(float)) +
                         "]}}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string bytes;
    for (int i = 0; i < 8; ++i)
        bytes += static_cast<char>((static_cast<std::uint64_t>(header.size()) >> (8 * i)) & 255);
    return bytes + header + std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
}

// All experts of a layer; the numbers of the first one's constant lie in the values file with this id.
inline LayerPlan layerWithStoredConstant(int experts, const ValuesId& id)
{
    LayerPlan::Content content = LayerPlan::allOf(experts).content();
    content.bodies.front() = ConstantBody{ConstantKind::Mean, id};
    return LayerPlan(content);
}

}  // namespace espalier::test
