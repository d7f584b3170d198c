// What the original model says about every scored position of a text: its most likely tokens with their log-probabilities, and what is
// left for all others. Made once, kept in a file, mapped: the original need not be in memory while another model is tuned towards it.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

constexpr int kTeacherTokens = 256;

// Of some rows. At the temperature of the cache.
struct TeacherRows {
    at::Tensor tokens;          // [M,K] int64
    at::Tensor logProbability;  // [M,K] fp32
    at::Tensor rest;            // [M] fp32: log of what all other tokens have together; -infinity where there are none
};

// From logits [M,V]: K = min(256, V).
TeacherRows teacherRows(const at::Tensor& logits, double temperature);

// One below the other.
TeacherRows joinedRows(const std::vector<TeacherRows>& parts);

// Immutable, any thread.
class TeacherCache
{
public:
    // Errors: recover.teacher_missing, recover.other_teacher (made for something else than `of` says), checkpoint.*.
    static Result<std::shared_ptr<const TeacherCache>> open(const std::filesystem::path& path, const Json& of);
    // Rows of one window, in its order.
    Result<TeacherRows> window(std::int64_t index) const;

private:
    friend class TeacherWriter;
    explicit TeacherCache(SafetensorsFile file) : m_file(std::move(file)) {}
    SafetensorsFile m_file;
};

// Writes a cache, window after window. `rows`: how many rows each window has.
class TeacherWriter
{
public:
    // Errors: output.*.
    static Result<TeacherWriter> create(const std::filesystem::path& path, const std::vector<std::int64_t>& rows, std::int64_t vocabulary,
                                        const Json& of);
    Status add(const TeacherRows& rows);  // of the next window
    Status finish();

private:
    explicit TeacherWriter(SafetensorsWriter writer) : m_writer(std::move(writer)) {}
    Status write(const at::Tensor& tensor);
    SafetensorsWriter m_writer;
};

}  // namespace espalier
