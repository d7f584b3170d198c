// From marks to numbers: accuracies per task of a plan beside the dense model, on the questions that both have answered. Pure functions.
#pragma once

#include "base/accuracy.h"
#include "rpc/protocol_tasks.h"

#include <QString>

#include <optional>
#include <vector>

namespace espalier
{

enum class TaskMetric { Acc, Norm };  // Norm: by log-likelihood per character, where the rules report it

struct TaskRow {
    enum class Kind { Task, Mean, MeanOfSeven };
    Kind kind = Kind::Task;
    QString name;
    bool byAcc = false;  // Norm was asked for, and these rules report none
    int questions = 0;   // that the numbers are of
    int wanted = 0;      // more: some are not answered yet
    int hidden = 0;      // whose right answer the file does not say
    std::optional<Accuracy> plan;
    std::optional<Accuracy> dense;
    std::optional<Accuracy> delta;  // plan - dense, paired
};

// One row per task in the order of the plan's list (of the dense model's where there is none); the mean of the tasks, each counting alike,
// where there are several; and the mean of the seven that papers on compression report, where all are there: ARC-challenge, ARC-easy,
// BoolQ, HellaSwag, OpenBookQA, RTE, WinoGrande. Means are of whole tasks, and missing while one is not whole. `planIsDense`: one model.
std::vector<TaskRow> taskRows(const std::vector<TaskMarks>& plan, const std::vector<TaskMarks>& dense, bool planIsDense, TaskMetric metric);

// The row that stands for all of them: the mean, or the only task. Null: none.
const TaskRow* headlineRow(const std::vector<TaskRow>& rows);

QString accuracyText(const Accuracy& accuracy);  // "0.4364 ± 0.0335", as lm-evaluation-harness prints it
QString accuracyDelta(const Accuracy& delta);    // "−0.0120 ± 0.0100"; "0" where no answer differs

}  // namespace espalier
