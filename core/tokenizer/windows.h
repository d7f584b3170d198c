// Texts and id files as rows of token ids: what profile and evaluate run on.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class Tokenizer;

enum class Bos { Auto, Yes, No };

struct WindowOptions {
    int windowLength = 2048;  // tokens per row, >= 2
    int maxWindows = 0;       // 0 = all
    Bos bos = Bos::Auto;      // Auto: as the tokenizer says (Tokenizer::addsBos); never added to ids
};

struct TokenWindows {
    std::vector<std::vector<int>> rows;  // independent windows, positions from 0; the first token of a row is not scored
    int windowLength = 0;
    std::string textSha256;          // of the ids of all rows in order: what the numbers belong to
    std::string source;              // file names, for people
    bool bos = false;                // one BOS stands at the start of the text
    std::string tokenizerSha256;     // empty for id files
    std::int64_t droppedTokens = 0;  // shorter rest, and rows beyond maxWindows
};

// The files are tokenised one after the other as one sequence, with at most one BOS, and cut into windows; a shorter rest is dropped.
// Errors: text.missing, text.invalid_utf8, text.empty, text.too_short (less than one window).
Result<TokenWindows> windowsFromText(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                                     const WindowOptions& options);

// `spec` is FILE or FILE:NAME: a JSON list of lists of ids, or a safetensors file with an integer tensor. Rows longer than the
// window length are cut like text, others are kept whole. Every id must lie below `vocabulary`.
// Errors: ids.missing, ids.invalid, ids.no_tensor, ids.out_of_range, ids.empty.
Result<TokenWindows> windowsFromIds(const std::string& spec, const WindowOptions& options, std::int64_t vocabulary);

// SHA-256 over the rows: lengths and ids as little-endian 32-bit integers.
std::string hashOfRows(const std::vector<std::vector<int>>& rows);

}  // namespace espalier
