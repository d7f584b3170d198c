// Errors and refusals as banners, each with the way out; one goes with its cause.
#pragma once

#include "shell/window/workspace.h"

#include <QStringList>

namespace espalier
{

class ErrorNotices final : public Workspace
{
    Q_OBJECT
public:
    ErrorNotices(const WindowContext& context, QObject* parent);

    // What the plan says about an edit; `locks` stand in its way. Where a panel in sight says it (`seen`) it is no banner.
    void explain(const QString& text, bool isError, const std::vector<int>& locks, bool seen);

    void notice(const Error& error, const QString& id);  // of the same cause as one on screen: replaces it

    void forget() override;

private:
    void nameLocks(Banner& banner);
    void settleProblems(bool evaluated);

    QStringList m_problems;            // banners about a profile or an evaluation that failed
    QStringList m_evaluationProblems;  // of these, the evaluation's
};

}  // namespace espalier
