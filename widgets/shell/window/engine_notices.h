// The engine as the window sees it: its state in status bar and start page, and what is said when it stops, hangs or does not fit.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class StartPage;

class EngineNotices final : public Workspace
{
    Q_OBJECT
public:
    EngineNotices(const WindowContext& context, StartPage* start, QObject* parent);

    void showEngine();

private:
    void showSilence();
    void showMisfit();
    void lost(const QString& cause, const QString& lastLine);
    void showDetails(const QString& cause);

    StartPage* m_start;
    QString m_lastJob;  // what runs, for the message when the engine stops
};

}  // namespace espalier
