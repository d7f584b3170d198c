#include "rpc/protocol_export.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<ExportedFile> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("bytes", m.bytes);
}
ESPALIER_PROTOCOL_JSON(ExportedFile);

template <typename Fields, Is<ExportReport> Message>
void fields(Fields& f, Message& m)
{
    f.required("flavor", m.flavor);
    f.required("out", m.out);
    f.required("files", m.files);
    f.required("bytes", m.bytes);
    f.required("tensor_bytes", m.tensorBytes);
    f.required("plan_hash", m.planHash);
    f.required("resumed_files", m.resumedFiles);
    f.required("dry_run", m.dryRun);
    f.required("warnings", m.warnings);
}
ESPALIER_PROTOCOL_JSON(ExportReport);

template <typename Fields, Is<VerifyCheck> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("holds", m.holds);
    f.required("detail", m.detail);
}
ESPALIER_PROTOCOL_JSON(VerifyCheck);

template <typename Fields, Is<VerifyReport> Message>
void fields(Fields& f, Message& m)
{
    f.required("holds", m.holds);
    f.required("flavor", m.flavor);
    f.required("plan_hash", m.planHash);
    f.required("checks", m.checks);
    f.nullable("max_abs_logit_difference", m.maxAbsLogitDifference);
    f.nullable("ppl_preview", m.pplPreview);
    f.nullable("ppl_export", m.pplExport);
    f.required("windows", m.windows);
    f.required("warnings", m.warnings);
}
ESPALIER_PROTOCOL_JSON(VerifyReport);

template <typename Fields, Is<ExportAnswer> Message>
void fields(Fields& f, Message& m)
{
    fields(f, m.report);
    f.nullable("verify", m.verify);
}
ESPALIER_PROTOCOL_JSON(ExportAnswer);

template <typename Fields, Is<ExportRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.document("plan", m.plan, true);
    f.required("out", m.out);
    f.optional("flavor", m.flavor);
    f.optional("force", m.force);
    f.optional("resume", m.resume);
    f.optional("dry_run", m.dryRun);
    f.optional("unfuse", m.unfuse);
    f.maybe("shard_size", m.shardSize, 1);
    if constexpr (Fields::kReads) {
        if (const Json* measured = f.find("measured")) {
            auto parsed = parseMeasured(*measured);
            if (parsed.ok())
                m.measured = std::move(parsed).value();
            else
                f.fail("measured", parsed.error().message);
        }
    } else if (!m.measured.empty()) {
        f.set("measured", m.measured.size() == 1 ? toJson(m.measured.front()) : encode(m.measured));
    }
    if constexpr (Fields::kReads) {
        if (const Json* tasks = f.find("measured_tasks")) {
            auto parsed = parseMeasuredTasks(*tasks);
            if (parsed.ok())
                m.measuredTasks = std::move(parsed).value();
            else
                f.fail("measured_tasks", parsed.error().message);
        }
    } else if (!m.measuredTasks.empty()) {
        f.set("measured_tasks", encode(m.measuredTasks));
    }
    if constexpr (Fields::kReads) {
        if (const Json* speed = f.find("measured_speed")) {
            auto parsed = parseMeasuredSpeed(*speed);
            if (parsed.ok())
                m.measuredSpeed = std::move(parsed).value();
            else
                f.fail("measured_speed", parsed.error().message);
        }
    } else if (m.measuredSpeed) {
        f.set("measured_speed", toJson(*m.measuredSpeed));
    }
    f.paths("profile", m.profiles);
    f.optional("verify", m.verify, true);
    fields(f, m.text);
    f.maybe("windows", m.windows, 1);
    f.optional("spread", m.spread, 0, 0);
}
ESPALIER_PROTOCOL_JSON(ExportRequest);

}  // namespace espalier
