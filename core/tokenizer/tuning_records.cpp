#include "tokenizer/tuning_records.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <initializer_list>
#include <string_view>
#include <utility>

namespace espalier
{

namespace
{

constexpr std::string_view kBlank = " \t\r\n";
constexpr const char* kMend = "Mend the record, or leave such records out with --leave-out-bad.";

// Stanford Alpaca's, with and without an input.
constexpr std::string_view kWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately "
    "completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n";
constexpr std::string_view kAlone =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### "
    "Instruction:\n{}\n\n### "
    "Response:\n";

bool blank(const std::string& text) { return text.find_first_not_of(kBlank) == std::string::npos; }

class Reader
{
public:
    Reader(const JsonRecord& record, const std::string& subject) : m_record(record), m_subject(subject) {}

    Error noText(const Json& object, std::string_view field) const
    {
        const auto found = object.find(field);
        std::vector<std::string> keys;
        for (const auto& [key, value] : object.items())
            if (keys.size() < 12) keys.push_back(key);
        if (found == object.end())
            return badInput("text.no_field", m_subject,
                            {"{subject}, {where}, has no \"{field}\"; it has {keys}.",
                             {{"subject", m_subject},
                              {"where", m_record.where},
                              {"field", field},
                              {"keys", keys.empty() ? std::string("no fields") : fmt::format("{}", fmt::join(keys, ", "))}}},
                            "Every record of a file has the fields of its first one.");
        return badInput("text.no_field", m_subject,
                        {"{subject}, {where}, has {found} in \"{field}\" instead of a text.",
                         {{"subject", m_subject},
                          {"where", m_record.where},
                          {"found", found->is_null() ? "null" : found->type_name()},
                          {"field", field}}},
                        "Write a text there, or take the record out.");
    }
    Result<std::string> text(const Json& object, std::string_view field) const
    {
        const auto found = object.find(field);
        if (found == object.end() || !found->is_string()) return noText(object, field);
        return found->get<std::string>();
    }
    Status answered(const std::string& answer, std::string_view field) const
    {
        if (!blank(answer)) return {};
        return badInput("text.empty_output", m_subject,
                        {"{subject}, {where}, has an empty \"{field}\": there is nothing to learn.",
                         {{"subject", m_subject}, {"where", m_record.where}, {"field", field}}},
                        kMend);
    }

    Result<TuningRecord> instruction() const
    {
        const Json& object = m_record.value;
        ESPALIER_TRY(const std::string task, text(object, "instruction"));
        ESPALIER_TRY(const std::string answer, text(object, "output"));
        std::string input;
        if (const auto found = object.find("input"); found != object.end() && !found->is_null()) {
            ESPALIER_TRY(input, text(object, "input"));
        }
        ESPALIER_CHECK_OK(answered(answer, "output"));
        return TuningRecord{{{input.empty() ? fmt::format(kAlone, task) : fmt::format(kWithInput, task, input), answer}}, m_record.where};
    }
    Result<TuningRecord> completion() const
    {
        ESPALIER_TRY(std::string prompt, text(m_record.value, "prompt"));
        ESPALIER_TRY(std::string answer, text(m_record.value, "completion"));
        ESPALIER_CHECK_OK(answered(answer, "completion"));
        return TuningRecord{{{std::move(prompt), std::move(answer)}}, m_record.where};
    }
    Result<TuningRecord> conversation(bool chatMl) const
    {
        const bool messages = m_record.value.contains("messages");
        const char* list = messages ? "messages" : "conversations";
        const char* who = messages ? "role" : "from";
        const char* what = messages ? "content" : "value";
        const Json& turns = m_record.value[list];
        if (!turns.is_array()) return noText(m_record.value, list);
        TuningRecord result{{}, m_record.where};
        std::string before;
        for (const Json& turn : turns) {
            if (!turn.is_object()) return noText(m_record.value, list);
            ESPALIER_TRY(const std::string role, text(turn, who));
            ESPALIER_TRY(const std::string content, text(turn, what));
            if (role == "assistant" || role == "gpt") {
                ESPALIER_CHECK_OK(answered(content, what));
                before += chatMl ? "<|im_start|>assistant\n" : "### Assistant:\n";
                result.exchanges.push_back({std::exchange(before, chatMl ? "\n" : "\n\n"), content + (chatMl ? "<|im_end|>" : "")});
            } else if (role == "system" || role == "user" || role == "human") {
                const bool system = role == "system";
                before += chatMl ? fmt::format("<|im_start|>{}\n{}<|im_end|>\n", system ? "system" : "user", content)
                                 : fmt::format("### {}:\n{}\n\n", system ? "System" : "User", content);
            } else {
                return badInput("text.unknown_role", m_subject,
                                {"{subject}, {where}, has a turn of \"{role}\"; turns are of system, user and assistant.",
                                 {{"subject", m_subject}, {"where", m_record.where}, {"role", role}}},
                                "Write such conversations out as \"prompt\" and \"completion\".");
            }
        }
        // What nobody answered teaches nothing.
        if (result.exchanges.empty()) ESPALIER_CHECK_OK(answered("", list));
        return result;
    }

private:
    const JsonRecord& m_record;
    const std::string& m_subject;
};

}  // namespace

RecordForm recordForm(const Json& record)
{
    if (!record.is_object()) return RecordForm::None;
    const auto has = [&](std::initializer_list<const char*> names) {
        for (const char* name : names)
            if (record.contains(name)) return true;
        return false;
    };
    if (has({"messages", "conversations"})) return RecordForm::Conversation;
    if (has({"instruction", "output"})) return RecordForm::Instruction;
    if (has({"prompt", "completion"})) return RecordForm::Completion;
    return RecordForm::None;
}

Result<TuningRecord> tuningRecord(const JsonRecord& record, RecordForm form, const std::string& subject, bool chatMl)
{
    const Reader reader(record, subject);
    if (!record.value.is_object())
        return badInput("text.invalid_line", subject,
                        {"{subject}, {where}, is no JSON object.", {{"subject", subject}, {"where", record.where}}},
                        "Every record is an object with the fields of the first one.");
    if (form == RecordForm::Instruction) return reader.instruction();
    if (form == RecordForm::Completion) return reader.completion();
    if (!record.value.contains("messages") && !record.value.contains("conversations")) return reader.noText(record.value, "messages");
    return reader.conversation(chatMl);
}

}  // namespace espalier
