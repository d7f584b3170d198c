#include "recover/teacher_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace espalier
{

namespace
{

constexpr const char* kOf = "espalier.teacher";

std::string nameOf(std::int64_t window, std::string_view part) { return fmt::format("{:08}.{}", window, part); }

}  // namespace

TeacherRows teacherRows(const at::Tensor& logits, double temperature)
{
    const std::int64_t count = std::min<std::int64_t>(kTeacherTokens, logits.size(1));
    const at::Tensor z = temperature == 1 ? logits : logits / temperature;
    const at::Tensor sums = at::logsumexp(z, {1}, true);
    TeacherRows rows;
    const auto [best, tokens] = z.topk(count, 1);
    rows.tokens = tokens;
    rows.logProbability = best - sums;
    if (count < z.size(1)) {
        const at::Tensor others = z.scatter(1, tokens, -std::numeric_limits<float>::infinity());
        rows.rest = (at::logsumexp(others, {1}, true) - sums).squeeze(1);
    } else {
        rows.rest = at::full({z.size(0)}, -std::numeric_limits<float>::infinity(), z.options());
    }
    return rows;
}

TeacherRows joinedRows(const std::vector<TeacherRows>& parts)
{
    std::vector<at::Tensor> tokens, logs, rests;
    for (const TeacherRows& part : parts) {
        tokens.push_back(part.tokens);
        logs.push_back(part.logProbability);
        rests.push_back(part.rest);
    }
    return {at::cat(tokens, 0), at::cat(logs, 0), at::cat(rests, 0)};
}

Result<std::shared_ptr<const TeacherCache>> TeacherCache::open(const std::filesystem::path& path, const Json& of)
{
    std::error_code failure;
    if (!std::filesystem::exists(path, failure))
        return badInput("recover.teacher_missing", path.filename().string(),
                        {"{path} with what the original model says is not there.", {{"path", path.string()}}}, "Start the run afresh.");
    ESPALIER_TRY(SafetensorsFile file, SafetensorsFile::open(path));
    const auto found = file.metadata().find(kOf);
    if (found == file.metadata().end() || found->second != canonicalJson(of))
        return badInput("recover.other_teacher", path.filename().string(),
                        {"{path} holds what another model or another text gave.", {{"path", path.string()}}}, "Start the run afresh.");
    return std::shared_ptr<const TeacherCache>(new TeacherCache(std::move(file)));
}

Result<TeacherRows> TeacherCache::window(std::int64_t index) const
{
    const auto read = [&](std::string_view part) -> Result<at::Tensor> {
        const TensorInfo* info = m_file.find(nameOf(index, part));
        if (info == nullptr || info->dtype != DType::F32)
            return badInput("recover.teacher_missing", "teacher",
                            {"What the original model says about window {index} is not in its file.", {{"index", index}}},
                            "Start the run afresh.");
        at::Tensor values = at::empty(info->shape, at::kFloat);
        const auto bytes = m_file.bytes(*info);
        std::memcpy(values.mutable_data_ptr(), bytes.data(), bytes.size());
        return values;
    };
    TeacherRows rows;
    ESPALIER_TRY(const at::Tensor tokens, read("a.tokens"));
    ESPALIER_TRY(rows.logProbability, read("b.log_probability"));
    ESPALIER_TRY(rows.rest, read("c.rest"));
    rows.tokens = tokens.to(at::kLong);
    return rows;
}

Result<TeacherWriter> TeacherWriter::create(const std::filesystem::path& path, const std::vector<std::int64_t>& rows,
                                            std::int64_t vocabulary, const Json& of)
{
    const std::int64_t count = std::min<std::int64_t>(kTeacherTokens, vocabulary);
    std::vector<TensorDeclaration> tensors;
    for (std::int64_t w = 0; w < std::ssize(rows); ++w) {
        const std::int64_t own = rows[static_cast<std::size_t>(w)];
        tensors.push_back({nameOf(w, "a.tokens"), DType::F32, {own, count}});
        tensors.push_back({nameOf(w, "b.log_probability"), DType::F32, {own, count}});
        tensors.push_back({nameOf(w, "c.rest"), DType::F32, {own}});
    }
    ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, std::move(tensors), {{kOf, canonicalJson(of)}}));
    return TeacherWriter(std::move(writer));
}

Status TeacherWriter::write(const at::Tensor& tensor)
{
    const at::Tensor values = tensor.to(at::kCPU, at::kFloat).contiguous();
    return m_writer.write({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
}

// Token ids are whole numbers below 2^24, which fp32 holds: with one type the tensors of a window lie together in the file.
Status TeacherWriter::add(const TeacherRows& rows)
{
    ESPALIER_CHECK_OK(write(rows.tokens));
    ESPALIER_CHECK_OK(write(rows.logProbability));
    return write(rows.rest);
}

Status TeacherWriter::finish() { return m_writer.finish(); }

}  // namespace espalier
