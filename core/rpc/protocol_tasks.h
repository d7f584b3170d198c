// Multiple-choice tasks: which questions a plan answers rightly.
#pragma once

#include "rpc/protocol.h"

#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

// What one plan answered of one task. Answers are marks, a character per question in the order of the file: '1' right, '0' wrong, '-' not
// answered (yet). So two plans can be compared question by question, whenever they were measured.
struct TaskMarks {
    static constexpr char kRight = '1';
    static constexpr char kWrong = '0';
    static constexpr char kOpen = '-';

    std::string name;    // "hellaswag", or what the folder's tasks.json calls it
    std::string rules;   // whose contexts and choices: "hellaswag"
    std::string sha256;  // of the file
    int hidden = 0;      // questions whose right answer the file does not say: they count as wrong
    std::string acc;     // by the sum of log-likelihoods
    std::string norm;    // by the sum per character of the choice; empty where the rules do not report it
};
ESPALIER_PROTOCOL_TYPE(TaskMarks);

struct TasksAnswer {
    std::string planHash;
    std::vector<TaskMarks> tasks;  // in the order of the folder, whole
    std::string dtype;             // computed in
    int recovered = 0;             // questions whose answers an earlier run had kept
    std::vector<std::string> warnings;
    double seconds = 0;
};
ESPALIER_PROTOCOL_TYPE(TasksAnswer);

// Streams a task whenever more of its questions are answered, about once in a second, and when it is done. What is answered is kept on
// the engine's disk: the same questions are not computed again, after a cancel either.
struct TasksRequest {
    static constexpr const char* kMethod = "tasks";
    using Answer = TasksAnswer;
    using Partial = TaskMarks;
    std::string path;
    std::filesystem::path data;                   // folder of the task files
    std::vector<std::string> only;                // names; none: all of the folder
    int limit = 0;                                // questions of every task, the first ones; 0: all
    int examples = 0;                             // answered questions before each one
    Json plan;                                    // as core/plan writes it; null: the whole model
    std::vector<std::filesystem::path> profiles;  // that factors and constants come from
};
ESPALIER_PROTOCOL_TYPE(TasksRequest);

}  // namespace espalier
