#include "search/field_block.h"

#include <fmt/format.h>

namespace espalier
{

Result<FieldBlock> fieldBlockFromJson(const Json& value)
{
    if (Result<BlockChosen> told = fromJson<BlockChosen>(value); told.ok()) return std::move(told).value().block;
    Result<FieldBlock> block = fromJson<FieldBlock>(value);
    if (block.ok()) return block;
    return badInput("search.invalid", "search result", {"A stored block cannot be read: {message}", {{"message", block.error().message}}},
                    "Run the search again.");
}

Status checkFieldOptions(const ReceptiveFieldOptions& options)
{
    if (options.sets >= 1 && options.sets <= 16 && options.blockSize >= 1 && options.blockSize <= 8) return {};
    Error error = usageError(
        {"K {sets} and T {block_size} must lie between 1 and 16, 1 and 8.", {{"sets", options.sets}, {"block_size", options.blockSize}}},
        "Three of each is what the paper uses.");
    error.code = "search.bad_option";
    error.subject = "kt";
    return error;
}

}  // namespace espalier
