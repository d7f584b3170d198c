// The bulky parts of a profile, which are read layer by layer or expert by expert and never as a whole: bases of the factors
// ("factors") and second moments ("moments"). No torch, no HDF5 in this header.
#pragma once

#include "base/error.h"
#include "plan/factor_source.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

// Of one expert. What is empty was not collected.
struct ExpertParts {
    int expert = 0;
    // gate, up, down. `thin`: under the larger ridge, for ranks above half the number of tokens (FactorRule::Ridge); `own`: for the others.
    std::array<FactorBasis, 3> own;
    std::array<FactorBasis, 3> thin;
    // Packed lower triangles (a >= b at a(a+1)/2 + b) of sum x x^T over the tokens routed to the expert, x the input of gate and
    // up, and of sum h h^T, h the input of down.
    std::vector<double> inputMoment;
    std::vector<double> hiddenMoment;
};

// Parts of one layer in a file of their own, from which writeProfile copies them. Experts ascending; a layer may be spread over
// several files with disjoint experts. `key` belongs to the writer. Errors: output.unwritable, output.disk_full.
Status writeLayerParts(const std::filesystem::path& path, const std::string& key, int layer, const std::vector<ExpertParts>& experts);
// The key alone, after the checksum was verified. Errors: profile.*.
Result<std::string> readLayerPartsKey(const std::filesystem::path& path);

// A profile's parts. The file stays open and is not changed; replacing it by a new one leaves an open one as it is. Any thread.
class ProfileParts final : public FactorSource
{
public:
    // Verifies the file once. Errors: profile.* of readProfile.
    static Result<std::shared_ptr<const ProfileParts>> open(const std::filesystem::path& path);
    ~ProfileParts() override;
    ProfileParts(const ProfileParts&) = delete;
    ProfileParts& operator=(const ProfileParts&) = delete;

    const std::filesystem::path& path() const;
    const std::string& profileSha256() const override;
    const std::string& fingerprint() const override;
    Json calibration() const override;
    FactorRule rule(int layer, int expert, int rank, int matrix) const override;
    Result<FactorBasis> basis(int layer, int expert, int matrix, int rank) const override;
    Result<std::vector<float>> constant(int layer, int expert, ConstantKind kind) const override;

    bool hasFactors() const;
    bool hasMoments() const;
    std::int64_t tokens(int layer, int expert) const;  // routed to the expert; 0 where there is no such expert
    // Packed as in ExpertParts. Errors: profile.missing_statistics, profile.* while reading.
    Result<std::vector<double>> moment(int layer, int expert, bool hidden) const;

private:
    struct Impl;
    explicit ProfileParts(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> m_impl;
};

}  // namespace espalier
