#include "rpc/protocol_tasks.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<TaskMarks> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("rules", m.rules);
    f.required("sha256", m.sha256);
    f.required("hidden", m.hidden, 0);
    f.required("acc", m.acc);
    f.optional("norm", m.norm);
    // Marks are compared one by one.
    if constexpr (Fields::kReads) {
        for (const auto& [key, marks] : {std::pair("acc", &m.acc), std::pair("norm", &m.norm)})
            if (marks->find_first_not_of("01-") != std::string::npos) f.fail(key, "is not a row of 0, 1 and -");
        if (!m.norm.empty() && m.norm.size() != m.acc.size()) f.fail("norm", "has another length than \"acc\"");
    }
}
ESPALIER_PROTOCOL_JSON(TaskMarks);

template <typename Fields, Is<TasksAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan_hash", m.planHash);
    f.required("tasks", m.tasks);
    f.required("dtype", m.dtype);
    f.required("recovered", m.recovered, 0);
    f.required("warnings", m.warnings);
    f.required("seconds", m.seconds);
}
ESPALIER_PROTOCOL_JSON(TasksAnswer);

template <typename Fields, Is<TasksRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.required("data", m.data);
    f.optional("only", m.only);
    f.optional("limit", m.limit, 0, 0);
    f.optional("examples", m.examples, 0, 0);
    f.document("plan", m.plan, false);
    f.paths("profile", m.profiles);
}
ESPALIER_PROTOCOL_JSON(TasksRequest);

}  // namespace espalier
