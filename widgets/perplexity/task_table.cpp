#include "perplexity/task_table.h"

#include "look/format.h"

#include <QCoreApplication>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr const char* kSeven[] = {"arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "rte", "winogrande"};
constexpr int kDecimals = 4;

const TaskMarks* sameTask(const std::vector<TaskMarks>& list, const TaskMarks& task)
{
    const auto found = std::find_if(list.begin(), list.end(),
                                    [&](const TaskMarks& other) { return other.name == task.name && other.sha256 == task.sha256; });
    return found == list.end() ? nullptr : &*found;
}

// Of the questions that `marks` and, where given, `beside` have answered.
std::vector<double> rightOf(const std::string& marks, const std::string* beside)
{
    std::vector<double> right;
    const std::size_t count = beside ? std::min(marks.size(), beside->size()) : marks.size();
    for (std::size_t i = 0; i < count; ++i)
        if (marks[i] != TaskMarks::kOpen && (!beside || (*beside)[i] != TaskMarks::kOpen))
            right.push_back(marks[i] == TaskMarks::kRight ? 1 : 0);
    return right;
}

bool anyAnswered(const std::string& marks) { return marks.find_first_not_of(TaskMarks::kOpen) != std::string::npos; }

TaskRow rowOf(const TaskMarks* plan, const TaskMarks* dense, TaskMetric metric)
{
    const TaskMarks& any = plan ? *plan : *dense;
    TaskRow row;
    row.name = QString::fromStdString(any.name);
    row.hidden = any.hidden;
    row.byAcc = metric == TaskMetric::Norm && any.norm.empty();
    const auto marksOf = [&](const TaskMarks& of) -> const std::string& {
        return metric == TaskMetric::Norm && !of.norm.empty() ? of.norm : of.acc;
    };
    const std::string* mine = plan && anyAnswered(marksOf(*plan)) ? &marksOf(*plan) : nullptr;
    const std::string* theirs = dense && anyAnswered(marksOf(*dense)) ? &marksOf(*dense) : nullptr;
    row.wanted = static_cast<int>(mine && theirs ? std::min(mine->size(), theirs->size()) : marksOf(any).size());
    if (mine && theirs) {
        const std::vector<double> right = rightOf(*mine, theirs);
        const std::vector<double> beside = rightOf(*theirs, mine);
        // They may have begun at different ends.
        if (!right.empty()) {
            row.plan = accuracy(right);
            row.dense = accuracy(beside);
            row.delta = pairedAccuracy(right, beside);
            row.questions = static_cast<int>(right.size());
            return row;
        }
        theirs = nullptr;
    }
    if (mine) {
        const std::vector<double> right = rightOf(*mine, nullptr);
        row.plan = accuracy(right);
        row.questions = static_cast<int>(right.size());
    } else if (theirs) {
        const std::vector<double> right = rightOf(*theirs, nullptr);
        row.dense = accuracy(right);
        row.questions = static_cast<int>(right.size());
    }
    return row;
}

TaskRow meanOf(const std::vector<TaskRow>& rows, TaskRow::Kind kind)
{
    TaskRow mean;
    mean.kind = kind;
    for (const TaskRow& row : rows) {
        mean.questions += row.questions;
        mean.wanted += row.wanted;
    }
    const auto fill = [&](std::optional<Accuracy> TaskRow::*which) {
        std::vector<Accuracy> values;
        for (const TaskRow& row : rows)
            if (row.*which && row.questions == row.wanted) values.push_back(*(row.*which));
        if (values.size() == rows.size()) mean.*which = meanAccuracy(values);
    };
    fill(&TaskRow::plan);
    fill(&TaskRow::dense);
    fill(&TaskRow::delta);
    return mean;
}

}  // namespace

std::vector<TaskRow> taskRows(const std::vector<TaskMarks>& plan, const std::vector<TaskMarks>& dense, bool planIsDense, TaskMetric metric)
{
    std::vector<TaskRow> rows;
    if (!plan.empty()) {
        for (const TaskMarks& task : plan)
            rows.push_back(rowOf(&task, planIsDense ? nullptr : sameTask(dense, task), metric));
    } else {
        for (const TaskMarks& task : dense)
            rows.push_back(rowOf(planIsDense ? &task : nullptr, &task, metric));
    }
    std::vector<TaskRow> seven;
    for (const char* name : kSeven)
        for (const TaskRow& row : rows)
            if (row.name == QLatin1String(name)) seven.push_back(row);
    if (rows.size() < 2) return rows;
    TaskRow all = meanOf(rows, TaskRow::Kind::Mean);
    const bool more = rows.size() > std::size(kSeven);
    all.name = QCoreApplication::translate("espalier::TaskRow", "mean");
    if (seven.size() == std::size(kSeven)) {
        TaskRow of = meanOf(seven, TaskRow::Kind::MeanOfSeven);
        of.name = QCoreApplication::translate("espalier::TaskRow", "mean of the seven");
        // Where there are no others it is the mean.
        if (more) rows.push_back(all);
        rows.push_back(of);
    } else {
        rows.push_back(all);
    }
    return rows;
}

const TaskRow* headlineRow(const std::vector<TaskRow>& rows)
{
    if (rows.empty()) return nullptr;
    for (const TaskRow& row : rows)
        if (row.kind != TaskRow::Kind::Task) return &row;
    return &rows.front();
}

QString accuracyText(const Accuracy& accuracy)
{
    const QString value = format::number(accuracy.value, kDecimals);
    return accuracy.error ? value + QStringLiteral(" ± ") + format::number(*accuracy.error, kDecimals) : value;
}

QString accuracyDelta(const Accuracy& delta)
{
    QString value = format::signedNumber(delta.value, kDecimals);
    if (!delta.error || (delta.value == 0 && *delta.error == 0)) return value;
    return value + QStringLiteral(" ± ") + format::number(*delta.error, kDecimals);
}

}  // namespace espalier
