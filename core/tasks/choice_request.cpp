#include "tasks/choice_request.h"

#include "tasks/python_text.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>

namespace espalier
{

Result<ChoiceRequest> encodeChoice(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation, int positions)
{
    const std::optional<int> prefix = tokenizer.bosId() ? tokenizer.bosId() : tokenizer.eosId();
    std::vector<int> before;
    std::vector<int> scored;
    if (context.empty()) {
        ESPALIER_TRY(scored, tokenizer.encode(continuation, false));
        if (!prefix)
            return badInput("task.no_tokens", std::string(continuation),
                            "The question is empty and the tokenizer has no token to begin with.", "Leave the question out.");
        before = {*prefix};
        if (!scored.empty() && scored.front() == *prefix) scored.erase(scored.begin());
    } else {
        // A text that brings the first token along does not get another one.
        const std::string first = prefix ? tokenizer.decode(std::array{*prefix}, false) : std::string();
        const auto encode = [&](std::string_view text) { return tokenizer.encode(text, first.empty() || !text.starts_with(first)); };
        const std::string whole = std::string(context) + std::string(continuation);
        ESPALIER_TRY(before, encode(context.substr(0, lengthWithoutTrailingSpace(context))));
        ESPALIER_TRY(scored, encode(whole));
        scored.erase(scored.begin(), scored.begin() + static_cast<std::ptrdiff_t>(std::min(before.size(), scored.size())));
    }
    if (scored.empty())
        return badInput("task.no_tokens", std::string(continuation), "A choice has no tokens of its own behind the question.",
                        "Correct the file, or leave the question out.");
    if (before.empty())
        return badInput("task.no_tokens", std::string(context), "The question has no tokens, so that nothing predicts the choice.",
                        "Correct the file, or leave the question out.");
    if (static_cast<int>(scored.size()) > positions)
        return badInput("task.too_long", std::string(continuation),
                        fmt::format("A choice has {} tokens; the model takes {}.", scored.size(), positions), "Leave the question out.");
    ChoiceRequest request;
    request.contextTokens = static_cast<int>(before.size());
    request.scored = static_cast<int>(scored.size());
    request.ids = std::move(before);
    request.ids.insert(request.ids.end(), scored.begin(), scored.end());
    const auto most = static_cast<std::size_t>(positions) + 1;
    if (request.ids.size() > most) request.ids.erase(request.ids.begin(), request.ids.end() - static_cast<std::ptrdiff_t>(most));
    return request;
}

}  // namespace espalier
