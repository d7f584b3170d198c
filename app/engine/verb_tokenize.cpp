#include "text_options.h"

#include "base/text.h"
#include "options.h"
#include "tokenizer/text_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <iterator>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

struct TokenizeOptions {
    std::filesystem::path model;
    std::string text;
    std::string string;
    std::string ids;
    std::string jsonl;
    std::string bos = "auto";
    std::string format = "auto";
    std::string field;
    bool hasString = false;
};

Result<std::string> readInput(const std::string& file)
{
    if (file != "-") return readTextFile(file, "text", kMaxTextBytes);
    std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    return text;
}

Result<std::string> readText(const TokenizeOptions& options, Invocation& invocation)
{
    TextFileOptions form{.field = options.field};
    ESPALIER_TRY(form.form, parseTextForm(options.format));
    ESPALIER_TRY(std::string bytes, readInput(options.text));
    ESPALIER_TRY(TextFile file,
                 textDocuments(std::move(bytes),
                               options.text == "-" ? "standard input" : std::filesystem::path(options.text).filename().string(), form));
    invocation.warnings.insert(invocation.warnings.end(), file.warnings.begin(), file.warnings.end());
    return std::move(file.text);
}

Json resultJson(const Tokenizer& tokenizer, const std::vector<int>& ids)
{
    return {{"ids", ids}, {"count", ids.size()}, {"text", tokenizer.decode(ids)}};
}

Result<Json> encodeJson(const Tokenizer& tokenizer, std::string_view text, Bos bos)
{
    ESPALIER_TRY(std::vector<int> ids, tokenizer.encode(text, false));
    const bool wanted = bos == Bos::Yes || (bos == Bos::Auto && tokenizer.addsBos());
    if (wanted && !tokenizer.bosId())
        return badInput("tokenizer.no_bos", "tokenizer", "The tokenizer has no beginning-of-sequence token.", "Use --bos no.");
    if (wanted) {
        ESPALIER_CHECK_OK(tokenizer.checkId(*tokenizer.bosId()));
        ids.insert(ids.begin(), *tokenizer.bosId());
    }
    return resultJson(tokenizer, ids);
}

Result<Json> decodeJson(const Tokenizer& tokenizer, const std::string& list, std::vector<std::string>& warnings)
{
    ESPALIER_TRY(const std::vector<int> ids, parseIdList(list));
    const auto unknown = std::find_if(ids.begin(), ids.end(), [&](int id) { return !tokenizer.has(id); });
    if (unknown != ids.end()) warnings.push_back(fmt::format("No token has the id {}: the text leaves out what has no token.", *unknown));
    return resultJson(tokenizer, ids);
}

Result<Json> encodeLines(const Tokenizer& tokenizer, const std::string& file, Bos bos)
{
    ESPALIER_TRY(const std::string content, readInput(file));
    Json results = Json::array();
    int number = 0;
    for (std::size_t begin = 0; begin < content.size();) {
        const std::size_t end = std::min(content.find('\n', begin), content.size());
        const std::string_view line = std::string_view(content).substr(begin, end - begin);
        begin = end + 1;
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        const std::string subject = fmt::format("{} line {}", file, number);
        ESPALIER_TRY(const Json item, parseJson(line, subject, "text"));
        if (!item.is_object() || !item.contains("text") || !item["text"].is_string())
            return badInput("text.invalid_line", subject, {"{subject} is not an object with a \"text\".", {{"subject", subject}}});
        ESPALIER_TRY(Json result, encodeJson(tokenizer, item["text"].get_ref<const std::string&>(), bos));
        results.push_back(std::move(result));
    }
    return Json{{"results", std::move(results)}};
}

Result<Json> tokenize(const TokenizeOptions& options, Invocation& invocation)
{
    const int given = !options.text.empty() + options.hasString + !options.ids.empty() + !options.jsonl.empty();
    if (given != 1) return usageError("One of --text, --string, --ids and --jsonl is needed.");
    ESPALIER_TRY(const Bos bos, parseBos(options.bos));
    // A tokenizer alone is enough. Beside weights it must fit them: ids that the embedding lacks would fail later, far from the cause.
    std::optional<std::int64_t> embeddingRows;
    std::string fingerprint;
    std::error_code ignored;
    if (std::filesystem::exists(options.model / "config.json", ignored))
        if (const auto checkpoint = Checkpoint::open(options.model); checkpoint.ok()) {
            embeddingRows = (*checkpoint)->config().vocabularySize;
            fingerprint = (*checkpoint)->fingerprint();
        }
    ESPALIER_TRY(const Tokenizer tokenizer, Tokenizer::load(options.model, embeddingRows));
    invocation.warnings = tokenizer.warnings();
    invocation.model = {{"path", options.model.string()}, {"fingerprint", fingerprint.empty() ? tokenizer.sha256() : fingerprint}};
    Result<Json> result = Json();
    if (!options.jsonl.empty()) {
        result = encodeLines(tokenizer, options.jsonl, bos);
    } else if (!options.ids.empty()) {
        result = decodeJson(tokenizer, options.ids, invocation.warnings);
    } else if (options.hasString) {
        result = encodeJson(tokenizer, options.string, bos);
    } else {
        ESPALIER_TRY(const std::string text, readText(options, invocation));
        result = encodeJson(tokenizer, text, bos);
    }
    if (!result.ok()) return result;
    (*result)["tokenizer_sha256"] = tokenizer.sha256();
    if (invocation.options.json) return result;
    const Json& body = *result;
    for (const Json& item : body.contains("results") ? body["results"] : Json::array({body})) {
        if (options.ids.empty())
            invocation.text += fmt::format("{}\n", fmt::join(item["ids"].get<std::vector<int>>(), ","));
        else
            invocation.text += item["text"].get<std::string>() + "\n";
    }
    return result;
}

}  // namespace

void addTokenize(Verbs& verbs)
{
    auto options = std::make_shared<TokenizeOptions>();
    CLI::App* verb =
        verbs.add("tokenize", "Text to token ids and back", [options](Invocation& invocation) { return tokenize(*options, invocation); });
    verb->add_option("MODEL", options->model, "Folder with a tokenizer.json, or that file")->required();
    verb->add_option("--text", options->text, "A text file, - for standard input")->type_name("FILE");
    verb->add_option_function<std::string>(
            "--string",
            [options](const std::string& value) {
                options->string = value;
                options->hasString = true;
            },
            "A text")
        ->type_name("S");
    verb->add_option("--text-format", options->format, "Form of that file: auto, text, jsonl or json")
        ->check(CLI::IsMember({"auto", "text", "jsonl", "json"}));
    verb->add_option("--text-field", options->field, "Field of JSON texts (default: text, or the only one)")->type_name("NAME");
    verb->add_option("--ids", options->ids, "Ids to decode, as 1,2,3")->type_name("IDS");
    verb->add_option("--jsonl", options->jsonl, "Lines of {\"text\": ...}")->type_name("FILE");
    verb->add_option("--bos", options->bos, "Begin-of-sequence token: auto, yes or no")->check(CLI::IsMember({"auto", "yes", "no"}));
}

}  // namespace espalier
