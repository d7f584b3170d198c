#include "gram_store_note.h"

#include "base/text.h"
#include "profile/profile_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

std::optional<GramStoreNote> gramStoreNote(const ProfileData& profile)
{
    std::int64_t stored = 0;
    std::int64_t tokenBytes = 0;
    for (const LayerProfile& layer : profile.layers) {
        const GramStore& gram = layer.gram;
        if (gram.listLength == 0) continue;
        stored = std::max(stored, static_cast<std::int64_t>(gram.tokenCount()));
        tokenBytes += gramTokenBytes(layer.experts, gram.listLength, profile.has("gradients"));
    }
    if (tokenBytes == 0) return {};
    std::string note = fmt::format("Gram store: {} of {} tokens, {}.", stored, profile.tokens, formatBytes(stored * tokenBytes));
    if (stored < profile.tokens)
        note += fmt::format(
            " --gram-tokens N stores more, {} each: leave-one-out scores, the losses that searches compare and the estimate of a plan get "
            "less "
            "noisy. Their sampling error falls with the square root of the tokens: by {:.0f} % with all of them. Counts, norms and factors "
            "are "
            "of the whole text in any case.",
            formatBytes(tokenBytes), 100 * (1 - std::sqrt(static_cast<double>(stored) / static_cast<double>(profile.tokens))));
    else
        note += " These are all; a longer text makes scores and searches less noisy.";
    return GramStoreNote{.tokens = stored,
                         .textTokens = profile.tokens,
                         .bytes = stored * tokenBytes,
                         .bytesPerToken = tokenBytes,
                         .option = "--gram-tokens",
                         .note = std::move(note)};
}

}  // namespace espalier
