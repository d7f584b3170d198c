// Reads a reference result (tests/fixtures/model/README.md) and compares with it.
#pragma once

#include "base/json.h"
#include "checkpoint/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

namespace espalier::test
{

struct Golden {
    SafetensorsFile file;
    Json json;

    static Golden read(const std::filesystem::path& stem)
    {
        Golden golden;
        auto file = SafetensorsFile::open(stem.string() + ".safetensors");
        if (!file) throw std::runtime_error(file.error().describe());
        golden.file = std::move(file).value();
        auto json = readJsonFile(stem.string() + ".json", "golden");
        if (!json) throw std::runtime_error(json.error().describe());
        golden.json = std::move(json).value();
        return golden;
    }
    bool has(const std::string& name) const { return file.find(name) != nullptr; }
    at::Tensor tensor(const std::string& name) const
    {
        const TensorInfo* info = file.find(name);
        if (!info) throw std::runtime_error("no golden tensor " + name);
        at::ScalarType type = at::kFloat;
        switch (info->dtype) {
            case DType::F64:
                type = at::kDouble;
                break;
            case DType::I64:
                type = at::kLong;
                break;
            case DType::I32:
                type = at::kInt;
                break;
            case DType::BF16:
                type = at::kBFloat16;
                break;
            default:
                break;
        }
        at::Tensor out = at::empty(info->shape, type);
        const auto bytes = file.bytes(*info);
        std::memcpy(out.mutable_data_ptr(), bytes.data(), bytes.size());
        return out;
    }
};

inline double maxDifference(const at::Tensor& a, const at::Tensor& b)
{
    return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Largest of |a - b| / (1e-5 * norm of the vector + 1e-5) over the last dimension: at most 1 passes.
inline double vectorExcess(const at::Tensor& value, const at::Tensor& reference)
{
    const at::Tensor difference = (value.to(at::kDouble) - reference.to(at::kDouble)).abs().amax({-1});
    const at::Tensor allowed = reference.to(at::kDouble).square().sum({-1}).sqrt() * 1e-5 + 1e-5;
    return (difference / allowed).max().item<double>();
}

}  // namespace espalier::test
