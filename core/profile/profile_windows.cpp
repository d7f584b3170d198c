#include "profile/profile_windows.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

using Rows = std::vector<std::vector<int>>;

Rows rowsOf(const WindowIds& ids)
{
    Rows rows;
    auto at = ids.ids.begin();
    for (const std::int32_t length : ids.lengths) {
        rows.emplace_back(at, at + length);
        at += length;
    }
    return rows;
}

void addGap(std::string& gaps, int first, int end)
{
    if (first >= end) return;
    gaps += gaps.empty() ? "" : ", ";
    gaps += end - first == 1 ? fmt::format("{}", first) : fmt::format("{} to {}", first, end - 1);
}

// Of one text, whose rows these are. How long it is nobody wrote down, but all of it has the text's hash.
std::string missingOf(std::span<const TokenRange> ranges, const Rows& rows)
{
    std::string gaps;
    int next = 0;
    for (const TokenRange& range : ranges) {
        addGap(gaps, next, range.firstWindow);
        next = range.firstWindow + range.windowCount;
    }
    if (!gaps.empty()) return gaps;
    return hashOfRows(rows) == ranges.front().textSha256 ? std::string() : fmt::format("{} and later", next);
}

}  // namespace

Result<std::optional<ProfileWindows>> profileWindows(const ProfileData& profile, int maxWindows, std::int64_t vocabulary)
{
    if (profile.windowIds.empty()) return std::optional<ProfileWindows>();
    const Rows rows = rowsOf(profile.windowIds);
    // Text after text, windows ascending: a shard that was merged before may hold both ends of a gap that another one fills.
    struct Part {
        std::size_t text;
        TokenRange range;
        Rows rows;
    };
    std::vector<Part> parts;
    std::vector<std::string> texts;
    std::size_t row = 0;
    for (const TokenRange& range : profile.ranges) {
        const std::size_t end = row + static_cast<std::size_t>(std::max(range.windowCount, 0));
        Part part{0, range, {}};
        if (end <= rows.size())
            part.rows.assign(rows.begin() + static_cast<std::ptrdiff_t>(row), rows.begin() + static_cast<std::ptrdiff_t>(end));
        if (part.rows.empty() || hashOfRows(part.rows) != range.sha256)
            return badInput("profile.invalid", profile.source, "The token ids in the profile are not those it was taken on.",
                            "Take the profile again, or give the text with --text.");
        const auto text = std::find(texts.begin(), texts.end(), range.textSha256);
        part.text = static_cast<std::size_t>(text - texts.begin());
        if (text == texts.end()) texts.push_back(range.textSha256);
        parts.push_back(std::move(part));
        row = end;
    }
    std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
        return std::pair(a.text, a.range.firstWindow) < std::pair(b.text, b.range.firstWindow);
    });
    ProfileWindows result;
    TokenWindows& windows = result.windows;
    for (std::size_t i = 0; i < parts.size();) {
        std::vector<TokenRange> ranges;
        Rows text;
        for (const std::size_t which = parts[i].text; i < parts.size() && parts[i].text == which; ++i) {
            ranges.push_back(parts[i].range);
            text.insert(text.end(), parts[i].rows.begin(), parts[i].rows.end());
        }
        if (const std::string missing = missingOf(ranges, text); !missing.empty())
            result.missing += (result.missing.empty() ? "" : "; ") + missing;
        windows.rows.insert(windows.rows.end(), text.begin(), text.end());
    }
    for (const std::int32_t id : profile.windowIds.ids)
        if (id >= vocabulary)
            return badInput("ids.out_of_range", profile.source,
                            {"The profile's text has the id {id}; the model's vocabulary has {vocabulary} rows.",
                             {{"id", id}, {"vocabulary", vocabulary}}},
                            "Use a profile of this model.");
    if (maxWindows > 0 && static_cast<std::size_t>(maxWindows) < windows.rows.size())
        windows.rows.resize(static_cast<std::size_t>(maxWindows));
    windows.windowLength = profile.windowLength;
    windows.textSha256 = hashOfRows(windows.rows);
    windows.source = profile.source;
    windows.bos = profile.bos;
    windows.tokenizerSha256 = profile.tokenizerSha256;
    return std::optional(std::move(result));
}

}  // namespace espalier
