#include "tokenizer/tuning_text.h"

#include "tokenizer/tokenizer.h"
#include "tokenizer/tuning_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>

namespace espalier
{

namespace
{

struct Encoded {
    std::vector<int> ids;
    std::vector<bool> scored;
};

// Left-over places of this many windows are tried for a record: what is older is nearly full.
constexpr std::size_t kOpenWindows = 64;

class Packer
{
public:
    Packer(std::size_t length, bool pack) : m_length(length), m_pack(pack) {}

    void add(Encoded record)
    {
        if (m_pack)
            for (std::size_t w = m_windows.size() - std::min(m_windows.size(), kOpenWindows); w < m_windows.size(); ++w) {
                Encoded& window = m_windows[w];
                if (window.ids.size() + record.ids.size() > m_length) continue;
                window.ids.insert(window.ids.end(), record.ids.begin(), record.ids.end());
                window.scored.insert(window.scored.end(), record.scored.begin(), record.scored.end());
                return;
            }
        m_windows.push_back(std::move(record));
    }
    std::vector<Encoded>& windows() { return m_windows; }

private:
    std::size_t m_length;
    bool m_pack;
    std::vector<Encoded> m_windows;
};

// Records of files as windows, added to a text.
class Instructions
{
public:
    Instructions(const Tokenizer& tokenizer, const TextRequest& request, const RecordOptions& options, RequestedTuning& result)
        : m_tokenizer(tokenizer),
          m_request(request),
          m_options(options),
          m_result(result),
          m_packer(static_cast<std::size_t>(request.window.windowLength), options.pack)
    {
        m_bos = request.window.bos == Bos::Yes || (request.window.bos == Bos::Auto && tokenizer.addsBos());
        m_chatMl = isToken("<|im_start|>") && isToken("<|im_end|>");
    }

    Status addFile(const std::string& subject, const std::vector<JsonRecord>& records, RecordForm form)
    {
        if (m_bos && !m_tokenizer.bosId())
            return badInput("text.no_bos", "tokenizer.json", "The tokenizer has no beginning-of-sequence token to put before the records.",
                            "Use --bos no.");
        if (!m_tokenizer.eosId() && !(form == RecordForm::Conversation && m_chatMl))
            m_result.warnings.push_back("The tokenizer names no end-of-sequence token: nothing marks where an answer ends.");
        for (const JsonRecord& item : records) {
            Result<Encoded> encoded = encode(item, form, subject);
            if (encoded.ok()) {
                ++m_result.records;
                m_packer.add(std::move(encoded).value());
                continue;
            }
            const std::string& code = encoded.error().code;
            if (!m_options.leaveOutBad || !code.starts_with("text.")) return std::move(encoded).error();
            ++m_leftOut;
            if (m_firstLeftOut.empty()) m_firstLeftOut = encoded.error().message;
        }
        return {};
    }

    // The windows behind those that the text has.
    void finish()
    {
        TuningText& text = m_result.text;
        text.windows.bos = text.windows.bos || m_bos;
        if (m_leftOut > 0) m_result.warnings.push_back(fmt::format("{} records are left out; the first: {}", m_leftOut, m_firstLeftOut));
        for (const std::vector<int>& row : text.windows.rows)
            text.scored.emplace_back(row.size(), true);
        for (Encoded& window : m_packer.windows()) {
            if (m_request.window.maxWindows > 0 && std::ssize(text.windows.rows) >= m_request.window.maxWindows) {
                text.windows.droppedTokens += static_cast<std::int64_t>(window.ids.size());
                continue;
            }
            text.windows.rows.push_back(std::move(window.ids));
            text.scored.push_back(std::move(window.scored));
        }
    }

private:
    bool isToken(std::string_view text) const
    {
        const Result<std::vector<int>> ids = m_tokenizer.encode(text, false);
        return ids.ok() && ids->size() == 1;
    }

    Result<Encoded> encode(const JsonRecord& item, RecordForm form, const std::string& subject) const
    {
        ESPALIER_TRY(const TuningRecord record, tuningRecord(item, form, subject, m_chatMl));
        Encoded result;
        const auto add = [&](int id, bool counts) {
            result.ids.push_back(id);
            result.scored.push_back(counts);
        };
        if (m_bos) add(*m_tokenizer.bosId(), false);
        const bool ownEnd = form == RecordForm::Conversation && m_chatMl;
        for (const TuningExchange& exchange : record.exchanges) {
            ESPALIER_TRY(const std::vector<int> prompt, m_tokenizer.encode(exchange.prompt, false));
            ESPALIER_TRY(const std::vector<int> whole, m_tokenizer.encode(exchange.prompt + exchange.answer, false));
            const auto first = std::mismatch(prompt.begin(), prompt.end(), whole.begin(), whole.end()).second - whole.begin();
            for (std::ptrdiff_t i = 0; i < std::ssize(whole); ++i)
                add(whole[static_cast<std::size_t>(i)], i >= first);
            if (m_tokenizer.eosId() && !ownEnd) add(*m_tokenizer.eosId(), true);
        }
        // Nothing stands before the first token of a record.
        if (!result.scored.empty()) result.scored.front() = false;
        if (std::find(result.scored.begin(), result.scored.end(), true) == result.scored.end())
            return badInput(
                "text.record_too_short", subject,
                {"{subject}, {where}, is one token: there is nothing to predict.", {{"subject", subject}, {"where", item.where}}},
                "Take it out, or leave such records out with --leave-out-bad.");
        const int most = m_request.window.windowLength;
        if (std::ssize(result.ids) > most)
            return badInput(
                "text.record_too_long", subject,
                {"{subject}, {where}, has {tokens} tokens, more than a window of {most}.",
                 {{"subject", subject}, {"where", item.where}, {"tokens", result.ids.size()}, {"most", most}}},
                {"Use --window-length {tokens} or more, or leave such records out with --leave-out-bad.", {{"tokens", result.ids.size()}}});
        return result;
    }

    const Tokenizer& m_tokenizer;
    const TextRequest& m_request;
    const RecordOptions& m_options;
    RequestedTuning& m_result;
    Packer m_packer;
    bool m_bos = false;
    bool m_chatMl = false;
    std::int64_t m_leftOut = 0;
    std::string m_firstLeftOut;
};

constexpr std::size_t kGram = 32;

std::string_view bytesOf(const std::vector<int>& row, std::size_t begin, std::size_t count)
{
    return {reinterpret_cast<const char*>(row.data() + begin), count * sizeof(int)};
}

}  // namespace

Result<RequestedTuning> openTuningWindows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                                          const TextRequest& request, const RecordOptions& options)
{
    RequestedTuning result;
    std::vector<std::filesystem::path> plain;
    std::vector<std::pair<std::filesystem::path, JsonRecords>> instructions;
    for (const std::filesystem::path& file : files) {
        // A field that was asked for is a text.
        JsonRecords read;
        if (request.file.field.empty()) {
            ESPALIER_TRY(read, readJsonRecords(file, request.file.form));
        }
        if (!read.records.empty() && recordForm(read.records.front().value) != RecordForm::None)
            instructions.emplace_back(file, std::move(read));
        else
            plain.push_back(file);
    }
    if (!plain.empty()) {
        ESPALIER_TRY(RequestedWindows opened, openTextWindows(tokenizer, plain, request));
        result.text.windows = std::move(opened.windows);
        result.warnings = std::move(opened.warnings);
    }
    if (instructions.empty()) return result;
    if (request.window.windowLength < 2)
        return usageError({"A window has at least 2 tokens, not {window_length}.", {{"window_length", request.window.windowLength}}});
    TokenWindows& windows = result.text.windows;
    if (plain.empty()) {
        windows.windowLength = request.window.windowLength;
        windows.tokenizerSha256 = tokenizer.sha256();
        result.warnings = tokenizer.warnings();
    }
    Instructions all(tokenizer, request, options, result);
    for (const auto& [file, read] : instructions) {
        const std::string subject = file.filename().string();
        result.warnings.insert(result.warnings.end(), read.warnings.begin(), read.warnings.end());
        windows.source += (windows.source.empty() ? "" : ", ") + subject;
        ESPALIER_CHECK_OK(all.addFile(subject, read.records, recordForm(read.records.front().value)));
    }
    all.finish();
    if (windows.rows.empty())
        return badInput("text.empty", windows.source, {"{source} holds no record that could be used.", {{"source", windows.source}}},
                        "Choose another file.");
    if (request.countAsked)
        if (std::string fewer = fewerWindows(request.window.maxWindows, windows); !fewer.empty())
            result.warnings.push_back(std::move(fewer));
    windows.textSha256 = hashOfRows(windows.rows);
    return result;
}

int sharedWindows(const TuningText& text, const TokenWindows& others)
{
    std::unordered_set<std::size_t> whole, grams;
    const std::hash<std::string_view> hash;
    for (const std::vector<int>& row : others.rows) {
        whole.insert(hash(bytesOf(row, 0, row.size())));
        for (std::size_t begin = 0; begin + kGram <= row.size(); ++begin)
            grams.insert(hash(bytesOf(row, begin, kGram)));
    }
    int shared = 0;
    for (std::size_t w = 0; w < text.windows.rows.size(); ++w) {
        const std::vector<int>& row = text.windows.rows[w];
        bool found = whole.contains(hash(bytesOf(row, 0, row.size())));
        const auto counts = [&](std::size_t t) { return text.scored.empty() || text.scored[w][t]; };
        for (std::size_t begin = 0; !found && begin + kGram <= row.size();) {
            std::size_t own = 0;
            while (own < kGram && counts(begin + own))
                ++own;
            if (own < kGram) {
                begin += own + 1;
                continue;
            }
            found = grams.contains(hash(bytesOf(row, begin, kGram)));
            begin += kGram;
        }
        shared += found;
    }
    return shared;
}

}  // namespace espalier
